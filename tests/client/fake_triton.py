"""A gRPC server that speaks Triton's protocol and answers a prompt in capitals, letter by letter."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
import msgspec
from tests.waiting import until
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ingot.errors import IngotError
from ingot.runtime.calls import AbortCall, Call, Generate, Part, Reply, error_text
from ingot.runtime.request import Chunk

STUB_DEATH = "Stub process 'tiny_0_0' is not healthy."


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """`failures` are raised one a call, after `fail_after` letters. `endless` answers go on until aborted, unless
    `deaf`. A `dead` model never answers a prompt, as Triton leaves it."""

    def __init__(self, secure: grpc.ServerCredentials | None = None) -> None:
        self.failures: list[IngotError] = []
        self.fail_after = 0
        self.endless = self.deaf = self.dead = False
        self.calls = self.aborts = self.cuts = 0
        self._aborted: defaultdict[str, threading.Event] = defaultdict(threading.Event)  # aborts may come by any stream
        self._server = grpc.server(ThreadPoolExecutor(32))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        here = "localhost:0"
        port = self._server.add_secure_port(here, secure) if secure else self._server.add_insecure_port(here)
        self.address = f"localhost:{port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(0).wait()

    def ModelStreamInfer(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        over = threading.Event()

        def end() -> None:
            if not over.is_set():
                self.cuts += 1

        context.add_callback(end)
        outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._take, args=(requests, outgoing, context), daemon=True).start()
        yield from iter(outgoing.get, None)
        over.set()

    def _take(self, requests: Iterator[Any], outgoing: queue.SimpleQueue[Any], context: grpc.ServicerContext) -> None:
        """Answers the requests of one stream, all at once, until the client has ended its side and has its answers."""
        answering = []

        def answer(call: Call, request_id: str) -> None:
            for message in self._answer(call, request_id, self._aborted[request_id], context):
                outgoing.put(message)

        for request in whole(requests):
            if not request.model_name:
                outgoing.put(message(request.id, error="Request for unknown model: '' is not found"))
                continue
            call = msgspec.json.decode(request.raw_input_contents[0][4:], type=Call)
            if isinstance(call, AbortCall):
                self.aborts += 1
                if not self.deaf:
                    self._aborted[call.request_id].set()
                    outgoing.put(message(request.id, Reply(), final=True))
                continue
            answering.append(threading.Thread(target=answer, args=(call, request.id), daemon=True))
            answering[-1].start()
        for thread in answering:
            thread.join()
        outgoing.put(None)

    def _answer(
        self, call: Call, request_id: str, aborted: threading.Event, context: grpc.ServicerContext
    ) -> Iterator[Any]:
        if not isinstance(call, Generate):
            yield (
                message(request_id, error=STUB_DEATH) if self.dead else message(request_id, Reply(text=""), final=True)
            )
            return
        self.calls += 1
        failure = self.failures.pop(0) if self.failures else None
        text = (call.request.prompt.text or "").upper()
        place = 0
        while context.is_active():
            if aborted.is_set():
                yield message(request_id, reply_of(call, place, "", "abort"), final=True)
                return
            if self.dead:
                time.sleep(0.01)
                continue
            if failure is not None and place >= self.fail_after:
                yield message(request_id, error=error_text(failure))
                return
            last = place == len(text) - 1 and not self.endless
            yield message(
                request_id, reply_of(call, place, text[place % len(text)], "stop" if last else None), final=last
            )
            if last:
                return
            place += 1
            time.sleep(0.002)

    def wait_for_cut(self) -> None:
        until(lambda: self.cuts)


def whole(requests: Iterator[Any]) -> Iterator[Any]:
    """The requests up to the end or the cut of the stream, which gRPC reports by a bare Exception."""
    with contextlib.suppress(Exception):
        yield from requests


def reply_of(call: Generate, number: int, text: str, reason: str | None) -> Reply:
    chunks = [Chunk(index=0, text=text, token_ids=[1], finish_reason=reason)]
    if call.link is None:
        return Reply(chunks=chunks)
    return Reply(parts=[Part(call.request.request_id, number, chunks)])


def message(request_id: str, reply: Reply | None = None, *, error: str = "", final: bool = False) -> Any:
    found = service_pb2.ModelStreamInferResponse(error_message=error)
    found.infer_response.id = request_id
    if reply is not None:
        found.infer_response.parameters["triton_final_response"].bool_param = final
        body = msgspec.json.encode(reply)
        tensor = found.infer_response.outputs.add()
        tensor.name, tensor.datatype = "reply", "BYTES"
        found.infer_response.raw_output_contents.append(len(body).to_bytes(4, "little") + body)
    return found
