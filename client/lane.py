"""One gRPC stream to Triton that carries one request at a time, and is used again. Knows no exchanges: client/link.py does.

Triton 2.51 writes its own refusals (a model that is unknown, or being unloaded) to a stream without looking whether a model's
response is being written there just then, and falls with "ASSERTION FAILED: !byte_buffer->Valid()" where one is. So
requests that run at once never share a stream; WriteResponseIfReady in Triton's src/grpc/infer_handler.h is the place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from ingot.client import grpc_wire as wire


class Lane:
    """Opens its stream at once. `reader` ends with the stream, by the RpcError that ended it if there was one."""

    def __init__(self, stub: Any, take: Callable[[Any], None], free: Callable[[Lane], None]) -> None:
        """`take` hears every ModelStreamInferResponse; `free(lane)` is called when a request has had its last one."""
        self._request_id: str | None = None  # of the request that is under way
        self._take = take
        self._free = free
        self._outgoing: asyncio.Queue[Any] = asyncio.Queue()
        self._heard = asyncio.Event()  # something
        self._call = stub.ModelStreamInfer(self._requests())
        # gRPC cuts a stream whose reading task is cancelled, so nobody else's task reads it.
        self.reader = asyncio.create_task(self._read(), name="ingot lane")

    def send(self, request: Any) -> None:
        """Only where no request is under way."""
        self._request_id = request.id
        self._outgoing.put_nowait(request)

    def follow(self, request: Any) -> None:
        """Sends what must not overtake the request under way, and may only be refused before that is answered."""
        self._outgoing.put_nowait(request)

    def finish(self) -> None:
        """Ends our side; Triton ends its own once it has said everything."""
        self._outgoing.put_nowait(None)

    def cut(self) -> None:
        self._call.cancel()

    async def _requests(self) -> AsyncIterator[Any]:
        # Triton keeps a stream's first request, and with it its model, until the stream ends: let it be one of no model.
        # It has to be refused first: an answer that comes while Triton writes a refusal can be lost.
        yield wire.no_request()
        await self._heard.wait()
        while (message := await self._outgoing.get()) is not None:
            yield message

    async def _read(self) -> None:
        try:
            async for message in self._call:
                self._heard.set()
                own = message.infer_response.id == self._request_id
                if own and (message.error_message or wire.is_final(message)):
                    self._request_id = None
                    self._free(self)
                self._take(message)
        except asyncio.CancelledError:
            if not self._call.cancelled():
                raise
