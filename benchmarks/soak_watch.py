"""What a soak watches beside the answers: memory, files and pages of the server's processes, and whether they stay flat."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
import psutil

WARM_UP = 0.3  # part of the time in which caches fill
GROWTH_PART = 0.05  # of its size that a process may grow by over the rest of the time, judged by a fitted line
GROWTH_MIB = 12.0  # or this much, for small ones
IDLE_SECONDS = 60.0
GAUGES = ("ingot:num_requests_running", "ingot:num_requests_waiting", "ingot:kv_cache_usage_perc")


@dataclass(slots=True)
class Watch:
    """Samples, one a second: (seconds, MiB) for each process by its role."""

    url: str
    key: str
    server: psutil.Process
    memory: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    running: list[float] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)
    pages: list[float] = field(default_factory=list)

    async def look(self, http: httpx.AsyncClient) -> None:
        for role, process in by_role([self.server, *self.server.children(recursive=True)]).items():
            size = process.memory_info().rss / (1 << 20)
            self.memory.setdefault(role, []).append((time.monotonic(), size))
        for kept, value in zip((self.running, self.waiting, self.pages), await self.gauges(http), strict=True):
            kept.append(value)

    async def gauges(self, http: httpx.AsyncClient) -> tuple[float, ...]:
        text = await self.metrics(http)
        return tuple(float(re.findall(rf"^{name}\{{.*\}} (.+)$", text, re.MULTILINE)[0]) for name in GAUGES)

    async def metrics(self, http: httpx.AsyncClient) -> str:
        reply = await http.get(self.url + "/metrics", headers={"Authorization": f"Bearer {self.key}"})
        return reply.text

    async def until_idle(self, http: httpx.AsyncClient) -> tuple[float, ...]:
        """The gauges when nothing runs any more, or what they are when patience ends."""
        deadline = time.monotonic() + IDLE_SECONDS
        while any(found := await self.gauges(http)) and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        return found

    def growth(self) -> dict[str, dict[str, float]]:
        """By role: mean MiB after the warm-up, the fitted line's slope, what it adds up to, and the bound on that."""
        return {role: growth_of(samples) for role, samples in sorted(self.memory.items())}


def by_role(processes: list[psutil.Process]) -> dict[str, psutil.Process]:
    """One of each: of those that compile grammars the one that stays, of those that render chats the one that renders."""
    roles = {"runtime.worker": "executor", "template_process": "templates", "grammars.process": "grammars"}
    found: dict[str, psutil.Process] = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # a child that compiled one grammar
            words = " ".join(process.cmdline())
            role = next((role for part, role in roles.items() if part in words), "server")
            if role == "templates" or role not in found:
                found[role] = process
    return found


def growth_of(samples: list[tuple[float, float]]) -> dict[str, float]:
    began, ended = samples[0][0], samples[-1][0]
    rest = [(at, size) for at, size in samples if at >= began + WARM_UP * (ended - began)]
    mean_at = sum(at for at, _ in rest) / len(rest)
    mean = sum(size for _, size in rest) / len(rest)
    spread = sum((at - mean_at) ** 2 for at, _ in rest) or 1.0
    slope = sum((at - mean_at) * (size - mean) for at, size in rest) / spread
    grown = slope * (rest[-1][0] - rest[0][0])
    bound = max(GROWTH_PART * mean, GROWTH_MIB)
    named = {"mib": mean, "slope_mib_per_minute": slope * 60, "growth_mib": grown, "bound_mib": bound}
    return {name: round(value, 3) for name, value in named.items()}
