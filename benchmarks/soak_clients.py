"""Clients of a soak: each sends one request after the other and says what became of it. Sockets by hand, so that they can
stop reading, leave at any byte, and cost less than what they load."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from soak_requests import Ask, random_ask

STUCK_SECONDS = 240.0  # without a byte: far above any honest wait, also on a machine that others stop for a while
STALL_SECONDS = 4.0  # that a slow reader reads nothing; the server is told to wait for half of that
EXPECTED = {
    "valid": {"answered", "busy"},
    "invalid": {"refused", "busy"},
    "cancelled": {"left", "answered", "busy"},
    "slow": {"answered", "cut", "left", "busy"},
}


@dataclass(slots=True)
class Counts:
    """What became of all requests; `wrong` has the first words of those that no client should see."""

    outcomes: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # dialect, kind, outcome
    wrong: list[str] = field(default_factory=list)

    def add(self, ask: Ask, outcome: str, said: bytes) -> None:
        self.outcomes[ask.dialect, ask.kind, outcome] += 1
        if outcome not in EXPECTED[ask.kind]:
            self.wrong.append(f"{ask.kind} {ask.path} {ask.content[:200]!r}: {outcome}: {said[-300:]!r}")


async def client(url: str, model: str, keys: list[str], seed: str, until: float, counts: Counts) -> None:
    """Sends what its seed says until then."""
    rng, loop = random.Random(seed), asyncio.get_running_loop()
    while loop.time() < until:
        ask, key = random_ask(rng, model), rng.choice(keys)
        said = bytearray()
        try:
            outcome = await send(url, ask, key, said, until)
        except TimeoutError:
            outcome = "stuck"
        counts.add(ask, outcome, bytes(said))


async def send(url: str, ask: Ask, key: str, said: bytearray, until: float) -> str:
    """Fills `said`; the outcome. Slow readers leave when the soak ends."""
    parts = urlsplit(url)
    head = (
        f"POST {ask.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: {ask.content_type}\r\nContent-Length: {len(ask.content)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 12)
    if ask.kind == "slow":
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    try:
        writer.write(head.encode() + ask.content)
        while piece := await asyncio.wait_for(reader.read(512 if ask.kind == "slow" else 1 << 16), STUCK_SECONDS):
            said += piece
            if ask.kind == "cancelled" and len(said) > ask.leaves_after:
                return "left" if b" 200 " in said[:16] else judge(ask, bytes(said))
            if ask.kind == "slow":
                if asyncio.get_running_loop().time() > until:
                    return "left"
                await asyncio.sleep(STALL_SECONDS if len(said) == 512 and ask.leaves_after else 0.005)
    except ConnectionError:
        return "cut"
    finally:
        writer.transport.abort()
    return judge(ask, bytes(said))


def judge(ask: Ask, said: bytes) -> str:
    """The outcome of an answer that was read to its end."""
    head, _, body = said.partition(b"\r\n\r\n")
    if not head:
        return "cut"
    status = int(head.split(b" ", 2)[1])
    if status == 429:
        return "busy"
    if status != 200:
        return "refused" if status < 500 else f"status {status}"
    if not ask.streams:
        json.loads(body)
        return "answered"
    if any(end in body for end in ask.ends) and b'"error"' not in body[-600:]:
        return "answered"
    return "cut" if ask.kind == "slow" else "broken"
