"""`AsyncClient`: a Triton server that hosts ingot engines, for asyncio. The methods of `Client`, awaited."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import msgspec
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ingot.client import grpc_wire as wire
from ingot.client.breaker import Breaker
from ingot.client.exchange import Exchange
from ingot.client.generation import Generation, collect
from ingot.client.grpc_wire import ClientOptions, ModelState, PromptLike
from ingot.client.link import Link
from ingot.client.stream_async import AsyncStream
from ingot.errors import IngotError
from ingot.runtime.calls import Call, Describe, Description, Detokenize, Embed, Generate, Reply, Tokenize
from ingot.runtime.params import SamplingParams
from ingot.runtime.request import EmbedRequest, GenerateRequest


class AsyncClient:
    """One connection, and one link, shared by everything that is asked. Make and use it on one event loop."""

    def __init__(self, address: str = "localhost:8001", options: ClientOptions | None = None) -> None:
        self.address = address
        self.options = options or ClientOptions()
        secure = wire.credentials(self.options)
        self._channel = (
            grpc.aio.secure_channel(address, secure, wire.CHANNEL_OPTIONS)
            if secure
            else grpc.aio.insecure_channel(address, wire.CHANNEL_OPTIONS)
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._once = msgspec.structs.replace(self.options, retries=0, outage=0.0)
        self._breaker = Breaker()
        self._links: list[Link] = []  # the last one takes new requests

    async def generate(
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
        stream = self.stream(
            model,
            prompt,
            params,
            version=version,
            timeout=timeout,
            request_id=request_id,
            cache_salt=cache_salt,
            priority=priority,
        )
        async with stream as chunks:
            return collect([chunk async for chunk in chunks])

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
    ) -> AsyncStream:
        """The answer as it grows. Leave the `async with` block, or cancel(), and the server stops and frees its pages."""
        call = wire.generate_call(
            model, prompt, params, request_id=request_id, cache_salt=cache_salt, priority=priority
        )
        return self._open(model, version, call, timeout)

    def open(
        self, request: GenerateRequest | EmbedRequest, *, version: str = "", timeout: float | None = None
    ) -> AsyncStream:
        """As stream(), for a request that is whole already. A text to embed gets one chunk."""
        call = Embed(request=request) if isinstance(request, EmbedRequest) else Generate(request=request)
        return self._open(request.model, version, call, timeout)

    async def tokenize(self, model: str, prompt: PromptLike, *, version: str = "") -> list[int]:
        return (await self.ask(model, Tokenize(prompt=wire.as_prompt(prompt)), version=version)).token_ids or []

    async def detokenize(self, model: str, token_ids: list[int], *, version: str = "") -> str:
        return (await self.ask(model, Detokenize(token_ids=token_ids), version=version)).text or ""

    async def describe(self, model: str, *, version: str = "", timeout: float = 10.0) -> Description:
        """What the engine behind a model is, and how busy. Answered by the engine's own process: a real probe, not retried."""
        reply = await self._probe(model, version, timeout)
        if reply is None or reply.description is None:
            raise IngotError(f"{model} did not describe itself.", mend="See that ingot rendered this model.")
        return reply.description

    async def health(self, *models: str) -> bool:
        """Whether the server is live and each of the models answers a real probe."""
        try:
            live = await self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=5)
            for model in models:
                await self.describe(model)
        except (grpc.RpcError, IngotError):
            return False
        return bool(live.live)

    async def models(self) -> list[ModelState]:
        """Every version of every model in the repository. Needs the admin key where the server has one."""
        index = await self._admin(self._stub.RepositoryIndex, service_pb2.RepositoryIndexRequest(), 30)
        return wire.model_states(index.models)

    async def load(self, model: str, *, timeout: float = 1800) -> None:
        """As Client.load."""
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        await self._admin(self._stub.RepositoryModelLoad, request, timeout)

    async def unload(self, model: str, *, timeout: float = 60) -> None:
        """Running requests finish first; the call itself returns at once."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        await self._admin(self._stub.RepositoryModelUnload, request, timeout)

    async def swap(self, model: str, version: str, *, timeout: float = 1800) -> Description:
        """Loads the version that was put into the model's folder and returns once it answers for itself."""
        await self.load(model, timeout=timeout)
        return await self.describe(model, version=version)

    async def ask(self, model: str, call: Call, *, version: str = "", timeout: float | None = None) -> Reply:
        """One call with one reply."""
        async with self._open(model, version, call, timeout) as stream:
            return await stream.next_reply() or Reply()

    async def close(self) -> None:
        """What is still open ends with an error."""
        await asyncio.gather(*(link.close() for link in self._links))
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _open(self, model: str, version: str, call: Call, timeout: float | None) -> AsyncStream:
        seconds = self.options.timeout if timeout is None else timeout
        return AsyncStream(self._link_for, self._breaker, self.options, model, version, call, seconds, watched=True)

    def _link_for(self, exchange: Exchange) -> Link:
        """The link of this moment; a new one after a stream has failed, or where a request repeats an id."""
        if not self._links or not self._links[-1].takes(exchange):
            for link in self._links:
                link.retire()
            self._links = [link for link in self._links if not link.ended]
            self._links.append(Link(self._stub, self._probe, drain=self.options.drain))
        return self._links[-1]

    async def _probe(self, model: str, version: str, timeout: float = wire.PROBE_SECONDS) -> Reply | None:
        """Asks once: a probe must neither wait for better times nor be watched by probes."""
        stream = AsyncStream(
            self._link_for, self._breaker, self._once, model, version, Describe(), timeout, watched=False
        )
        async with stream:
            return await stream.next_reply()

    async def _admin(self, method: Any, request: Any, timeout: float) -> Any:
        try:
            return await method(request, timeout=timeout, metadata=wire.metadata(self.options))
        except grpc.RpcError as error:
            raise wire.error_of_rpc(error, getattr(request, "model_name", "")) from error
