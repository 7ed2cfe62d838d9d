"""The Backend whose engines run in a Triton server, here or on another machine. Knows no HTTP and no tensors."""

from __future__ import annotations

import asyncio
import calendar
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ingot.client.backend import Health, ModelCard, whole_vector
from ingot.client.grpc_async import AsyncClient
from ingot.client.grpc_wire import ClientOptions
from ingot.client.metrics import Metrics, Stopwatch, text_of
from ingot.client.routes import Routes
from ingot.client.stream_async import AsyncStream
from ingot.errors import ExecutorDiedError, IngotError, RequestError, UnavailableError, UnknownModelError
from ingot.runtime.calls import Description
from ingot.runtime.messages import Stats
from ingot.runtime.request import Chunk, EmbedRequest, GenerateRequest, Prompt

LOOK_SECONDS = 1.0  # between two looks at every model
ABORT_SECONDS = 1.0  # for aborted requests to end when the server stops
FORGET_SECONDS = 10.0  # after which an unloaded model is no longer one of ours
SETTLE_LOOKS = 2  # good ones in a row after a bad one: a Triton whose model has died may itself fall shortly after
# The time belongs to who asks through us; what was not begun waits for a restart of the server or a model.
SERVING = ClientOptions(timeout=3600.0, outage=30.0)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TritonOptions:
    address: str = "localhost:8001"  # gRPC
    models: tuple[str, ...] = ()  # served names; empty: all that the server lists, which may need the admin key
    routes: Path | None = None
    tool_parser: str | None = None  # of every model; none is guessed, for the templates are on the other side
    reasoning_parser: str | None = None
    generation_config: bool = True  # see EmbeddedOptions
    start_timeout: float = 60.0  # seconds until the server must answer
    client: ClientOptions = SERVING


class TritonBackend:
    """See client.backend.Backend."""

    def __init__(self, options: TritonOptions) -> None:
        """Raises DeploymentError where the routes cannot be read."""
        self._options = options
        self._routes = Routes(options.routes)
        self._client: AsyncClient | None = None
        self._found: dict[str, Description | IngotError] = {}  # by name, as of the last look
        self._seen: dict[str, float] = {}  # models that were listed, and when they last were
        self._unsettled = 0  # good looks until health is believed
        self._metrics: dict[str, Metrics] = {}
        self._flights: dict[str, AsyncStream] = {}
        self._watch: asyncio.Task[None] | None = None
        self._draining = False

    async def start(self) -> None:
        """Returns when every model answers. Raises what the last of them said where they do not in time."""
        self._client = AsyncClient(self._options.address, self._options.client)
        deadline = time.monotonic() + self._options.start_timeout
        while True:
            try:
                await self._look()
                self._unsettled = 0  # that was a start, no return
                break
            except UnavailableError:
                if time.monotonic() > deadline:
                    await self.stop(0)
                    raise
                await asyncio.sleep(0.2)
            except IngotError:
                await self.stop(0)
                raise
        self._watch = asyncio.create_task(self._keep_looking(), name="triton models")

    async def stop(self, drain_seconds: float) -> None:
        self._draining = True
        await self._wait_for_flights(drain_seconds)
        for stream in self._flights.values():
            stream.cancel()
        await self._wait_for_flights(ABORT_SECONDS)
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        if self._client is not None:
            await self._client.close()

    async def models(self) -> list[ModelCard]:
        options = self._options
        return [
            msgspec.structs.replace(
                card_of(name, found),
                tool_parser=options.tool_parser,
                reasoning_parser=options.reasoning_parser,
                sampling=found.sampling if options.generation_config else {},
            )
            for name, found in self._found.items()
            if isinstance(found, Description)
        ]

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        async with self._flight(request) as (stream, stopwatch):
            while (reply := await stream.next_reply()) is not None:
                for chunk in reply.chunks:
                    stopwatch.take(chunk)
                    yield chunk

    async def embed(self, request: EmbedRequest) -> Chunk:
        async with self._flight(request) as (stream, stopwatch):
            (chunk,) = [chunk async for chunk in stream]  # to its end: a stream that is left early is aborted
            stopwatch.take(chunk)
        return whole_vector(chunk)

    @contextlib.asynccontextmanager
    async def _flight(
        self, request: GenerateRequest | EmbedRequest
    ) -> AsyncGenerator[tuple[AsyncStream, Stopwatch], None]:
        """The request under way, timed, and known to stop()."""
        model, version = self._admit_new(request)
        # Of its own id: another front end may use the same one.
        sent = msgspec.structs.replace(request, model=model, request_id=uuid.uuid4().hex)
        stopwatch = Stopwatch(self._metrics_of(request.model))
        stream = self._ready_client().open(sent, version=version)
        self._flights[request.request_id] = stream
        try:
            async with stream:
                stopwatch.sent()
                yield stream, stopwatch
        except IngotError as error:
            stopwatch.failed(error)
            if isinstance(error, ExecutorDiedError):
                self._found[request.model], self._unsettled = error, SETTLE_LOOKS  # sooner than the next look
            raise
        finally:
            del self._flights[request.request_id]

    async def tokenize(self, model: str, prompt: Prompt) -> list[int]:
        name, version = self._admit(model)
        return await self._ready_client().tokenize(name, prompt, version=version)

    async def detokenize(self, model: str, token_ids: list[int]) -> str:
        name, version = self._admit(model)
        return await self._ready_client().detokenize(name, token_ids, version=version)

    async def health(self) -> Health:
        """Of all models, as of the last look, at most some seconds ago. True again only once it has settled."""
        if self._draining:
            return Health(ready=False, detail="stopping")
        bad = {name: found for name, found in self._found.items() if isinstance(found, IngotError)}
        if not self._found:
            return Health(ready=False, detail="no model is loaded")
        detail = "; ".join(f"{name}: {error.message}" for name, error in bad.items())
        if not bad and self._unsettled:
            return Health(ready=False, detail="back, and not yet for long")
        return Health(ready=not bad, detail=detail or "ready")

    async def metrics(self) -> bytes:
        return text_of([self._metrics_of(name) for name in self._found])

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except IngotError as error:
                logger.warning("%s", error)

    async def _look(self) -> None:
        """Asks every name's engine what it is. Raises where one does not answer; what was found stands all the same."""
        self._unsettled = max(self._unsettled - 1, 0)
        try:
            names = [name for model in await self._served() for name in self._routes.names(model)]
        except IngotError as error:
            self._found = dict.fromkeys(self._found, error)
            self._unsettled = SETTLE_LOOKS
            raise
        found = dict(zip(names, await asyncio.gather(*(self._describe(name) for name in names)), strict=True))
        self._found = found
        for one in found.values():
            if isinstance(one, IngotError):
                self._unsettled = SETTLE_LOOKS
                raise one

    async def _served(self) -> list[str]:
        if self._options.models:
            return list(self._options.models)
        rows = [row for row in await self._ready_client().models() if row.state]  # an empty state: never loaded
        here = {row.name for row in rows if row.reason != "unloaded"}
        now = time.monotonic()
        self._seen |= dict.fromkeys(here, now)
        # What is loaded again was unloaded for a moment: it is away, not unknown.
        self._seen = {name: at for name, at in self._seen.items() if now < at + FORGET_SECONDS}
        return sorted(self._seen)

    async def _describe(self, name: str) -> Description | IngotError:
        try:
            model, version = self._routes.resolve(name)
            version = version if ":" in name else self._routes.main_version(name)
            return await self._ready_client().describe(model, version=version)
        except IngotError as error:
            return error

    def _admit_new(self, request: GenerateRequest | EmbedRequest) -> tuple[str, str]:
        if request.request_id in self._flights:
            raise RequestError("A request with this id is running.", mend="Use an id once.", param="request_id")
        return self._admit(request.model)

    def _admit(self, name: str) -> tuple[str, str]:
        if self._draining:
            raise UnavailableError("The server is stopping.", mend="Send the request to another, or again later.")
        if name not in self._found:
            known = ", ".join(self._found) or "none"
            raise UnknownModelError(f"No model is called {name[:200]!r}.", mend=f"This server has: {known}.")
        return self._routes.resolve(name)

    def _metrics_of(self, name: str) -> Metrics:
        def stats() -> Stats | None:
            found = self._found.get(name)
            return found.stats if isinstance(found, Description) else None

        if name not in self._metrics:
            self._metrics[name] = Metrics(name, stats)
        return self._metrics[name]

    def _ready_client(self) -> AsyncClient:
        if self._client is None:
            raise UnavailableError("The backend was not started.", mend="Call start() first.")
        return self._client

    async def _wait_for_flights(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._flights and time.monotonic() < deadline:
            await asyncio.sleep(0.02)


def card_of(name: str, description: Description) -> ModelCard:
    manifest = description.manifest
    return ModelCard(
        name=name,
        created=calendar.timegm(time.strptime(manifest.built_at[:19], "%Y-%m-%dT%H:%M:%S")),
        max_model_len=manifest.limits.max_model_len,
        vocab_size=description.vocab_size,
        target=manifest.target,
        quant=str(manifest.recipe.get("quant", "none")),
        fingerprint=description.fingerprint,
        tasks=manifest.tasks,
        embedding=manifest.embedding,
    )
