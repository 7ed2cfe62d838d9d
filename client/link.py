"""What many requests share, for asyncio: streams that stay open. Does what their Exchanges decide: client/exchange.py says why.

A message for each token costs Triton and its clients more CPU than the token itself. So requests name their link, and the
model says what it has for all of them in one message down any one's stream; what is said to whom is in the reply's parts.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc
import msgspec

from ingot.client import grpc_wire as wire
from ingot.client.exchange import QUIET_SECONDS, Due, Exchange
from ingot.client.lane import Lane
from ingot.errors import ExecutorDiedError, IngotError, UnavailableError
from ingot.runtime.calls import Generate, Reply

TICK_SECONDS = 0.05

logger = logging.getLogger(__name__)

Probe = Callable[[str, str], Awaitable[object]]


class Listener(Protocol):
    """Who asked."""

    def hear(self, replies: list[Reply]) -> None: ...

    def end(self, error: IngotError | None) -> None:
        """Called once, after the last reply."""
        ...


class Link:
    """Takes requests until it is `retired`, and then ends by itself when the last of them has."""

    def __init__(self, stub: Any, probe: Probe, *, drain: float) -> None:
        """`probe(model, version)` asks the model anything and raises what it hears. `drain`: seconds that the streams
        may take to end before they are cut."""
        self.id = uuid.uuid4().hex  # the model hands what it says of a link to whoever names it
        self.retired = False
        self._probe = probe
        self._drain = drain
        self._open: dict[str, tuple[Exchange, Listener]] = {}
        self._stub = stub
        self._lanes: list[Lane] = []
        self._idle: list[Lane] = []
        self._lane_of: dict[str, Lane] = {}  # by the id of an open request
        self._probes: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._newest: dict[str, str] = {}  # the version that last answered a request which named none, by model
        self._mute = False  # whether a request was given up that may never end
        self._busy = asyncio.Event()
        self._watcher = asyncio.create_task(self._watch(), name="ingot link watch")
        self._closer: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        return self._closer is not None and self._closer.done()

    def takes(self, exchange: Exchange) -> bool:
        """Not once it is retired, and not two requests of one id."""
        return not self.retired and exchange.id not in self._open

    def open(self, exchange: Exchange, listener: Listener) -> None:
        self._open[exchange.id] = exchange, listener
        call = exchange.call
        if isinstance(call, Generate):
            call = msgspec.structs.replace(call, link=self.id)
        request = wire.infer_request(exchange.model, exchange.version, call, exchange.id)
        self._lane_of[exchange.id] = self._send(request)
        self._busy.set()

    def heed(self, exchange: Exchange) -> None:
        """Does what is due."""
        due = exchange.due(time.monotonic())
        if due is Due.ABORT:
            abort = wire.abort_request(exchange.model, exchange.version, exchange.id)
            # One lane keeps its order, and answers do not meet a refusal where there are none yet.
            if exchange.begun:
                self._send(abort)
            else:
                self._lane_of[exchange.id].follow(abort)
        elif due is Due.GIVE_UP:
            self._give_up([exchange])
        elif due is Due.PROBE and (exchange.model, exchange.version) not in self._probes:
            self._probes[exchange.model, exchange.version] = asyncio.create_task(
                self._look(exchange.model, exchange.version)
            )

    def retire(self) -> None:
        self.retired = True
        if not self._open and self._closer is None:
            self._closer = asyncio.create_task(self._finish(), name="ingot link end")

    async def close(self) -> None:
        """Ends the streams. What is still open ends with an error."""
        self.retire()
        if self._closer is None:
            self._mute = True
            self._closer = asyncio.create_task(self._finish(), name="ingot link end")
        await self._closer

    def _send(self, request: Any) -> Lane:
        """Down a lane that is free, or a new one."""
        lane = self._idle.pop() if self._idle else self._new_lane()
        lane.send(request)
        return lane

    def _new_lane(self) -> Lane:
        lane = Lane(self._stub, self._take, self._idle.append)
        lane.reader.add_done_callback(self._ended)
        self._lanes.append(lane)
        return lane

    def _ended(self, reader: asyncio.Task[None]) -> None:
        """A stream's end is the link's: what the model said to others may have been on it."""
        self.retired = True
        failure = None if reader.cancelled() else reader.exception()
        if failure is not None and not isinstance(failure, grpc.RpcError):
            logger.error("a link broke", exc_info=failure)
        for exchange, _ in list(self._open.values()):
            rpc = isinstance(failure, grpc.RpcError)
            exchange.fail(wire.error_of_rpc(failure, exchange.model) if rpc else ended(exchange.model))
            self._settle(exchange)

    def _take(self, message: Any) -> None:
        response = message.infer_response
        own, _ = self._open.get(response.id, (None, None))
        final = wire.is_final(message)
        try:
            reply = wire.read_reply(message, own.model if own else response.model_name)
        except IngotError as error:
            if own is not None:
                own.fail(error)
                self._settle(own)
                if isinstance(error, ExecutorDiedError):
                    self._bury(error, own.model, self._version_of(own), time.monotonic() - QUIET_SECONDS)
            return
        for part in reply.parts:
            last = final and part.request_id == response.id
            self._hear(part.request_id, Reply(chunks=part.chunks), response.model_version, last, part.number)
        if not reply.parts:
            self._hear(response.id, reply, response.model_version, final, None)

    def _hear(self, request_id: str, reply: Reply, version: str, final: bool, number: int | None) -> None:
        exchange, listener = self._open.get(request_id, (None, None))
        if exchange is None or listener is None:
            return  # an abort's own reply, or one to a request that was given up
        if version and not exchange.version:
            exchange.version = self._newest[exchange.model] = version
        if ready := exchange.take(reply, final=final, number=number):
            listener.hear(ready)
        self._settle(exchange)

    def _settle(self, exchange: Exchange) -> None:
        if exchange.over and exchange.id in self._open:
            _, listener = self._open.pop(exchange.id)
            del self._lane_of[exchange.id]
            listener.end(exchange.end())
            if self.retired:
                self.retire()

    def _give_up(self, exchanges: list[Exchange]) -> None:
        """Their own ends will not come: once the others have ended, the streams are cut."""
        self._mute = self.retired = True
        for exchange in exchanges:
            self._settle(exchange)

    async def _watch(self) -> None:
        while True:
            await self._busy.wait()
            await asyncio.sleep(TICK_SECONDS)
            for exchange, _ in list(self._open.values()):
                self.heed(exchange)
            if not self._open:
                self._busy.clear()

    async def _look(self, model: str, version: str) -> None:
        """Ends what a dead process left silent. Only a death counts: slow or busy models are left alone."""
        began = time.monotonic()
        try:
            await self._probe(model, version)
        except ExecutorDiedError as death:
            self._bury(death, model, version, began)
        except IngotError:
            pass  # it answered, or the whole server is out of reach, which the stream sees for itself
        finally:
            del self._probes[model, version]

    def _version_of(self, exchange: Exchange) -> str:
        """Which version was asked; Triton does not say so in an error. One that was not named was the newest."""
        return exchange.version or self._newest.get(exchange.model, "")

    def _bury(self, death: ExecutorDiedError, model: str, version: str, since: float) -> None:
        """Ends what a dead process has left silent since that moment: nothing more will come of it."""
        silent = [
            exchange
            for exchange, _ in self._open.values()
            if (exchange.model, self._version_of(exchange)) == (model, version) and exchange.heard_at < since
        ]
        for exchange in silent:
            exchange.fail(death)
        if silent:
            self._give_up(silent)

    async def _finish(self) -> None:
        self._watcher.cancel()
        readers = [lane.reader for lane in self._lanes]
        for lane in self._lanes:
            lane.finish()
        if readers and not self._mute:
            await asyncio.wait(readers, timeout=self._drain)
        for lane in self._lanes:
            lane.cut()
        for task in (tasks := [self._watcher, *self._probes.values()]):
            task.cancel()
        await asyncio.gather(*readers, *tasks, return_exceptions=True)


def ended(model: str) -> IngotError:
    return UnavailableError(f"The server ended the stream of {model!r}.", mend="Try again shortly.")
