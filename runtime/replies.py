"""The reply side of a hosted engine: turns an executor's tokens into each caller's replies. Knows no transport.

It runs in a thread of its own and takes all that is ready at once: a slow transport gets fewer, larger replies, and
never stalls a step. Requests of one link get one reply together, for a reply costs a transport far more than a token.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import msgspec

from ingot.errors import IngotError, QueueFullError
from ingot.runtime.calls import Embed, Generate, Part, Reply
from ingot.runtime.messages import Abort, RequestFailed, TokenChunk, TokenRequest
from ingot.runtime.request import Chunk
from ingot.runtime.streams import Stream, as_error

POLL_SECONDS = 0.05  # how often callers that get no tokens are asked whether they still want any

logger = logging.getLogger(__name__)

Outcome = TokenChunk | RequestFailed


class Caller(Protocol):
    """Who asked. Hears any number of replies, then exactly once either `final` or a failure."""

    def send(self, reply: Reply, *, final: bool) -> None: ...

    def fail(self, error: IngotError) -> None: ...

    def cancelled(self) -> bool: ...


class Timing(Protocol):
    """Hears how long requests took, in seconds since their arrival."""

    def first_token(self, seconds: float) -> None: ...

    def finished(self, seconds: float) -> None: ...


@dataclass(slots=True)
class OpenRequest:
    """A request between its arrival and its last reply."""

    own_id: str
    caller_id: str
    stream: Stream
    caller: Caller
    streaming: bool
    sequences: int
    began: float
    link: str | None
    told: int = 0  # replies so far
    held: list[Chunk] = field(default_factory=list)  # for a caller that wants one reply
    answered: bool = False
    aborted: bool = False


class Replies:
    """The open requests of one executor. `send` reaches the executor; open() and ids_of() may be called by any thread."""

    def __init__(self, send: Callable[[TokenRequest | Abort], None], timing: Timing | None, *, room: int) -> None:
        """`room` is how many sequences may run and wait together."""
        self._room = room
        self._send = send
        self._timing = timing
        self._open: dict[str, OpenRequest] = {}
        self._lock = threading.Lock()
        self._ended: IngotError | None = None
        self._polled = 0.0

    def open(self, call: Generate | Embed, caller: Caller, make_stream: Callable[[Generate | Embed], Stream]) -> None:
        """Registers a request, then hands it to the executor. Raises what makes it impossible; then nothing follows."""
        own_id = uuid.uuid4().hex  # a caller's id may come twice
        request = msgspec.structs.replace(call.request, request_id=own_id)
        stream = make_stream(msgspec.structs.replace(call, request=request))
        streaming = isinstance(call, Generate) and call.stream
        link = call.link if isinstance(call, Generate) else None
        sequences = stream.token_request.params.n
        entry = OpenRequest(
            own_id, call.request.request_id, stream, caller, streaming, sequences, time.monotonic(), link
        )
        with self._lock:
            if self._ended is not None:
                raise self._ended
            asked = sum(entry.sequences for entry in self._open.values()) + entry.sequences
            if asked > self._room:
                raise QueueFullError(
                    f"The queue is full: {self._room} sequences run or wait.", mend="Try again when some have ended."
                )
            self._open[own_id] = entry
        self._send(stream.token_request)

    @property
    def ended(self) -> IngotError | None:
        """Why nothing can be asked any more."""
        return self._ended

    def abort(self, caller_id: str) -> None:
        with self._lock:
            found = [entry.own_id for entry in self._open.values() if entry.caller_id == caller_id]
        for own_id in found:
            self._send(Abort(request_id=own_id))

    def run(self, outbox: queue.SimpleQueue[Sequence[Outcome] | IngotError], tick: Callable[[], None]) -> None:
        """The thread's work, until an error comes out of the outbox: every caller still open fails with it."""
        error = None
        while error is None:
            outcomes, error = take_ready(outbox)
            self._deliver(outcomes)
            self._poll_all()
            tick()
        with self._lock:
            self._ended, entries, self._open = error, list(self._open.values()), {}
        for entry in entries:
            self._guarded(entry, partial(entry.caller.fail, error))

    def _deliver(self, outcomes: Sequence[Outcome]) -> None:
        """One reply for each request or link that has something new, however many tokens that is."""
        by_request: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            by_request.setdefault(outcome.request_id, []).append(outcome)
        linked: dict[str, list[OpenRequest]] = {}
        for own_id, own in by_request.items():
            entry = self._open.get(own_id)
            if entry is None:
                continue
            final = self._read(entry, own)
            ready = bool(entry.held) and entry.streaming
            if final or (ready and entry.link is None):
                self._send_reply([entry], final=final)
            elif ready:
                linked.setdefault(str(entry.link), []).append(entry)
        for entries in linked.values():
            self._send_reply(entries, final=False)

    def _read(self, entry: OpenRequest, outcomes: Sequence[Outcome]) -> bool:
        """Adds the new text to what is held for the caller. True where it is the last; a failure ends the request here."""
        for outcome in outcomes:
            if isinstance(outcome, RequestFailed):
                self._forget(entry)
                self._guarded(entry, partial(entry.caller.fail, as_error(outcome)))
                entry.held.clear()
                return False
            chunks, aborts = entry.stream.feed(outcome)
            entry.held += chunks
            for abort in aborts:
                self._send(abort)
        final = entry.stream.finished
        self._time(entry, final=final)
        if final:
            self._forget(entry)
        return final

    def _send_reply(self, entries: Sequence[OpenRequest], *, final: bool) -> None:
        """Down the stream of the first whose transport bears it: those of a link share one connection."""
        first = entries[0]
        if first.link is None:
            reply = Reply(chunks=first.held)
        else:
            reply = Reply(parts=[Part(entry.caller_id, entry.told, entry.held) for entry in entries])
        for entry in entries:
            entry.held = []
            entry.told += 1
        for entry in entries:
            if self._guarded(entry, partial(entry.caller.send, reply, final=final)):
                if not final:
                    self._guarded(entry, partial(self._poll, entry))
                return

    def _time(self, entry: OpenRequest, *, final: bool) -> None:
        if self._timing is None or entry.aborted:
            return
        seconds = time.monotonic() - entry.began
        if not entry.answered:
            self._timing.first_token(seconds)
            entry.answered = True
        if final:
            self._timing.finished(seconds)

    def _poll_all(self) -> None:
        now = time.monotonic()
        if now - self._polled > POLL_SECONDS:
            self._polled = now
            one_each = {entry.link or entry.own_id: entry for entry in list(self._open.values())}
            for entry in one_each.values():
                self._guarded(entry, partial(self._poll, entry))

    def _poll(self, entry: OpenRequest) -> None:
        """Frees the pages of a caller that has gone, and of all its link; a last chunk still ends each stream."""
        if entry.aborted or not entry.caller.cancelled():
            return
        for other in list(self._open.values()):
            if other is entry or (entry.link is not None and other.link == entry.link):
                other.aborted = True
                self._send(Abort(request_id=other.own_id))

    def _guarded(self, entry: OpenRequest, work: Callable[[], None]) -> bool:
        """A caller whose transport breaks ends alone, and False: its request is aborted, the others go on."""
        try:
            work()
        except Exception:
            logger.exception("replying to request %s failed", entry.caller_id)
            self._forget(entry)
            self._send(Abort(request_id=entry.own_id))
            return False
        return True

    def _forget(self, entry: OpenRequest) -> None:
        with self._lock:
            self._open.pop(entry.own_id, None)


def take_ready(
    outbox: queue.SimpleQueue[Sequence[Outcome] | IngotError],
) -> tuple[list[Outcome], IngotError | None]:
    """All that lies in the outbox; waits a moment where there is nothing yet."""
    outcomes: list[Outcome] = []
    try:
        batch = outbox.get(timeout=POLL_SECONDS)
        while not isinstance(batch, IngotError):
            outcomes += batch
            batch = outbox.get_nowait()
    except queue.Empty:
        return outcomes, None
    return outcomes, batch
