"""`Client`: a Triton server that hosts ingot engines, from ordinary code. Connects on first use; safe in many threads."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import grpc
import msgspec
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ingot.client import grpc_wire as wire
from ingot.client.generation import Generation, collect
from ingot.client.grpc_wire import ClientOptions, ModelState, PromptLike
from ingot.client.pulse import Pulse
from ingot.client.stream_sync import Stream
from ingot.errors import IngotError
from ingot.runtime.calls import Call, Describe, Description, Detokenize, Reply, Tokenize
from ingot.runtime.params import SamplingParams


class Client:
    """One connection, shared by everything that is asked through it. Every method raises IngotErrors."""

    def __init__(self, address: str = "localhost:8001", options: ClientOptions | None = None) -> None:
        self.address = address
        self.options = options or ClientOptions()
        secure = wire.credentials(self.options)
        self._channel = (
            grpc.secure_channel(address, secure, wire.CHANNEL_OPTIONS)
            if secure
            else grpc.insecure_channel(address, wire.CHANNEL_OPTIONS)
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._once = msgspec.structs.replace(self.options, retries=0, outage=0.0)
        self._pulse = Pulse(self._probe)

    def generate(
        self,
        model: str,
        prompt: PromptLike,
        params: SamplingParams | None = None,
        *,
        version: str = "",
        timeout: float | None = None,
        request_id: str | None = None,
        cache_salt: str | None = None,
        priority: int = 0,
    ) -> list[Generation]:
        """All params.n answers, whole. `timeout` is in seconds; past it the request is aborted: DeadlineError."""
        with self.stream(
            model,
            prompt,
            params,
            version=version,
            timeout=timeout,
            request_id=request_id,
            cache_salt=cache_salt,
            priority=priority,
        ) as chunks:
            return collect(chunks)

    def stream(
        self,
        model: str,
        prompt: PromptLike,
        params: SamplingParams | None = None,
        *,
        version: str = "",
        timeout: float | None = None,
        request_id: str | None = None,
        cache_salt: str | None = None,
        priority: int = 0,
    ) -> Stream:
        """The answer as it grows. Leave the `with` block, or cancel(), and the server stops and frees its pages."""
        call = wire.generate_call(
            model, prompt, params, request_id=request_id, cache_salt=cache_salt, priority=priority
        )
        return self._open(model, version, call, timeout)

    def tokenize(self, model: str, prompt: PromptLike, *, version: str = "") -> list[int]:
        return self.ask(model, Tokenize(prompt=wire.as_prompt(prompt)), version=version).token_ids or []

    def detokenize(self, model: str, token_ids: list[int], *, version: str = "") -> str:
        return self.ask(model, Detokenize(token_ids=token_ids), version=version).text or ""

    def describe(self, model: str, *, version: str = "", timeout: float = 10.0) -> Description:
        """What the engine behind a model is, and how busy. Answered by the engine's own process: a real probe, not retried."""
        reply = self._probe(model, version, timeout)
        if reply is None or reply.description is None:
            raise IngotError(f"{model} did not describe itself.", mend="See that ingot rendered this model.")
        return reply.description

    def health(self, *models: str) -> bool:
        """Whether the server is live and each of the models answers a real probe."""
        try:
            live = bool(self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=5).live)
            return live and all(self.describe(model) is not None for model in models)
        except (grpc.RpcError, IngotError):
            return False

    def models(self) -> list[ModelState]:
        """Every version of every model in the repository. Needs the admin key where the server has one."""
        index = self._admin(self._stub.RepositoryIndex, service_pb2.RepositoryIndexRequest(), 30)
        return wire.model_states(index.models)

    def load(self, model: str, *, timeout: float = 1800) -> None:
        """Loads a model, or brings a loaded one up to what its folder now says. A version that fails to load raises
        EngineError with the reason; versions that served before go on serving."""
        self._admin(self._stub.RepositoryModelLoad, service_pb2.RepositoryModelLoadRequest(model_name=model), timeout)

    def unload(self, model: str, *, timeout: float = 60) -> None:
        """Running requests finish first; the call itself returns at once."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        self._admin(self._stub.RepositoryModelUnload, request, timeout)

    def swap(self, model: str, version: str, *, timeout: float = 1800) -> Description:
        """Loads the version that was put into the model's folder and returns once it answers for itself."""
        self.load(model, timeout=timeout)
        return self.describe(model, version=version)

    def ask(self, model: str, call: Call, *, version: str = "", timeout: float | None = None) -> Reply:
        """One call with one reply."""
        with self._open(model, version, call, timeout) as stream:
            return next(stream.replies(), Reply())

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, model: str, version: str, call: Call, timeout: float | None) -> Stream:
        seconds = self.options.timeout if timeout is None else timeout
        return Stream(self._stub, self.options, model, version, call, seconds, self._pulse)

    def _probe(self, model: str, version: str, timeout: float = wire.PROBE_SECONDS) -> Reply | None:
        """Asks once: a probe must neither wait for better times nor be watched by probes."""
        stream = Stream(self._stub, self._once, model, version, Describe(), timeout, None)
        with stream:
            return next(stream.replies(), None)

    def _admin(self, method: Any, request: Any, timeout: float) -> Any:
        try:
            return method(request, timeout=timeout, metadata=wire.metadata(self.options))
        except grpc.RpcError as error:
            raise wire.error_of_rpc(error, getattr(request, "model_name", "")) from error
