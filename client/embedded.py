"""The Backend whose executor runs in a process beside the server: text here, tokens there. Knows no HTTP."""

from __future__ import annotations

import asyncio
import calendar
import hashlib
import logging
import re
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import msgspec

from ingot.client.backend import SWITCHES, Health, ModelCard, whole_vector
from ingot.client.bounds import check_length, too_slow
from ingot.client.inbox import MAX_PENDING_CHUNKS, Inbox
from ingot.client.metrics import Metrics, Stopwatch
from ingot.client.openai.tool_parsers import guess_notation
from ingot.errors import IngotError, QueueFullError, RequestError, UnavailableError, UnknownModelError
from ingot.manifest import FILE_NAME, Manifest, read_manifest
from ingot.runtime.embed_stream import EmbedStream
from ingot.runtime.generation_config import sampling_defaults
from ingot.runtime.messages import Abort, FromExecutor, RequestFailed, TokenChunk
from ingot.runtime.request import Chunk, EmbedRequest, GenerateRequest, Prompt
from ingot.runtime.streams import RequestStream, Stream, as_error
from ingot.runtime.supervisor import Supervisor, SupervisorOptions
from ingot.runtime.text import Tokenizer
from ingot.runtime.validate import check_task

logger = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CHATS_AT_ONCE = 4
LONG_PROMPT_CHARS = 1024  # encoded in a thread, so that one long prompt does not hold up everybody's tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedOptions:
    served_model_name: str | None = None  # the manifest's name where None
    tool_parser: str | None = None  # guessed from the chat template where None
    reasoning_parser: str | None = None
    generation_config: bool = True  # its sampling parameters stand in for those that a request leaves unset
    max_queue: int = 1024  # sequences that may wait beyond those the engine can run at once
    max_prompt_tokens: int | None = None  # None: what the engine holds
    request_seconds: float = 3600.0  # from a request's arrival to its last token
    max_pending_chunks: int = MAX_PENDING_CHUNKS  # unread chunks of one request before it is cut off
    supervisor: SupervisorOptions = field(default_factory=SupervisorOptions)


@dataclass(slots=True)
class Flight:
    """A request from its arrival to its end."""

    request_id: str
    sequences: int
    inbox: Inbox
    stopwatch: Stopwatch
    stream: Stream | None = None  # set when its prompt is encoded


class EmbeddedBackend:
    """See client.backend.Backend."""

    def __init__(self, engine: Path, options: EmbeddedOptions | None = None) -> None:
        """Reads the manifest. Raises EngineError where `engine` is none."""
        self._engine = engine
        self._options = options or EmbeddedOptions()
        self._manifest = read_manifest(engine)
        self._name = self._options.served_model_name or self._manifest.name
        self._supervisor = Supervisor(
            engine, on_messages=self._take, on_down=self._fail_all, options=self._options.supervisor
        )
        self._metrics = Metrics(self._name, lambda: self._supervisor.stats)
        self._tokenizer: Tokenizer | None = None
        self._cards: list[ModelCard] = []  # one, once the engine is loaded
        self._flights: dict[str, Flight] = {}
        self._draining = False
        self._chats = ThreadPoolExecutor(CHATS_AT_ONCE, thread_name_prefix="chat")  # their own, for they may wait

    @property
    def supervisor(self) -> Supervisor:
        return self._supervisor

    async def start(self) -> None:
        """Raises EngineError and its like where the engine does not load."""
        await self._supervisor.start()  # the executor checks the engine's digests before anything here reads its files
        try:
            sampling = sampling_defaults(self._engine) if self._options.generation_config else {}
            self._tokenizer = await asyncio.to_thread(load_tokenizer, self._engine)
        except IngotError:
            await self._supervisor.stop()
            raise
        card = model_card(self._engine, self._manifest, self._name, self._tokenizer.vocab_size)
        template = self._tokenizer.template_source
        self._cards = [
            msgspec.structs.replace(
                card,
                tool_parser=self._options.tool_parser or guess_notation(template),
                reasoning_parser=self._options.reasoning_parser,
                template_switches=tuple(name for name in SWITCHES if re.search(rf"\b{name}\b", template)),
                sampling=sampling,
            )
        ]

    async def stop(self, drain_seconds: float) -> None:
        self._draining = True
        await self._wait_for_flights(drain_seconds)
        for flight in self._flights.values():
            self._tell(Abort(request_id=flight.request_id))
        await self._wait_for_flights(1.0)  # the executor ends them with finish_reason "abort"
        await self._supervisor.stop()
        self._chats.shutdown(wait=False, cancel_futures=True)
        self._fail_all(UnavailableError("The server stopped.", mend="Send the request to another, or again later."))

    async def _wait_for_flights(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._flights and self._supervisor.ready and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    async def models(self) -> list[ModelCard]:
        self._ready_tokenizer()
        return self._cards

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        return self._fly(request, request.params.n)

    async def embed(self, request: EmbedRequest) -> Chunk:
        async with aclosing(self._fly(request, 1)) as chunks:
            return whole_vector(await anext(chunks))

    async def _fly(self, request: GenerateRequest | EmbedRequest, sequences: int) -> AsyncGenerator[Chunk, None]:
        self._admit(request, sequences)
        inbox = Inbox(self._options.max_pending_chunks)
        flight = Flight(request.request_id, sequences, inbox, Stopwatch(self._metrics))
        self._flights[request.request_id] = flight
        seconds = self._options.request_seconds
        deadline = asyncio.get_running_loop().call_later(seconds, flight.inbox.fail, too_slow(seconds))
        try:
            flight.stream = await self._open(request)
            self._supervisor.send(flight.stream.token_request)
            flight.stopwatch.sent()
            while (chunk := await flight.inbox.get()) is not None:
                yield chunk
        except IngotError as error:
            flight.stopwatch.failed(error)
            raise
        finally:
            deadline.cancel()
            self._end(flight)

    async def tokenize(self, model: str, prompt: Prompt) -> list[int]:
        self._check_name(model)
        return await self._beside_the_loop(prompt, self._ready_tokenizer().encode_prompt, prompt)

    async def detokenize(self, model: str, token_ids: list[int]) -> str:
        self._check_name(model)
        tokenizer = self._ready_tokenizer()
        return await asyncio.to_thread(tokenizer.decode, token_ids, skip_special_tokens=False)

    async def health(self) -> Health:
        if self._draining:
            return Health(ready=False, detail="stopping")
        return Health(ready=self._supervisor.ready and self._tokenizer is not None, detail=self._supervisor.detail)

    async def metrics(self) -> bytes:
        return self._metrics.text()

    def _admit(self, request: GenerateRequest | EmbedRequest, sequences: int) -> None:
        self._check_name(request.model)
        if self._draining:
            raise UnavailableError("The server is stopping.", mend="Send the request to another, or again later.")
        if not self._supervisor.ready:
            raise UnavailableError(f"The executor is not ready: {self._supervisor.detail}.", mend="Try again shortly.")
        if request.request_id in self._flights:
            raise RequestError("A request with this id is running.", mend="Use an id once.", param="request_id")
        room = self._manifest.limits.max_num_seqs + self._options.max_queue
        asked = sum(flight.sequences for flight in self._flights.values()) + sequences
        if asked > room:
            raise QueueFullError(
                f"The queue is full: {room} sequences run or wait.", mend="Try again when some have ended."
            )

    async def _open(self, request: GenerateRequest | EmbedRequest) -> Stream:
        stream = await self._beside_the_loop(request.prompt, self._stream, request, self._ready_tokenizer())
        check_length(stream.token_request.token_ids, self._options.max_prompt_tokens)
        return stream

    async def _beside_the_loop(self, prompt: Prompt, work: Callable[[*Ts], T], *words: *Ts) -> T:
        """The work that a prompt asks for, where it holds up nobody else: chats wait for the process that renders them."""
        if prompt.messages is not None:
            return await asyncio.get_running_loop().run_in_executor(self._chats, work, *words)
        if len(prompt.text or "") > LONG_PROMPT_CHARS:
            return await asyncio.to_thread(work, *words)
        return work(*words)

    def _stream(self, request: GenerateRequest | EmbedRequest, tokenizer: Tokenizer) -> Stream:
        if isinstance(request, EmbedRequest):
            return EmbedStream(request, tokenizer, self._manifest)
        check_task(self._manifest, "generate")
        return RequestStream(request, tokenizer, self._manifest.limits)

    def _take(self, messages: Sequence[FromExecutor]) -> None:
        """All that one step gave, to the requests it belongs to. Chunks of requests that are gone fall away."""
        for message in messages:
            if isinstance(message, TokenChunk):
                flight = self._flights.get(message.request_id)
                if flight is not None and flight.stream is not None:
                    self._deliver(flight, flight.stream, message)
            elif isinstance(message, RequestFailed):
                flight = self._flights.get(message.request_id)
                if flight is not None:
                    flight.inbox.fail(as_error(message))

    def _deliver(self, flight: Flight, stream: Stream, tokens: TokenChunk) -> None:
        try:
            chunks, aborts = stream.feed(tokens)
        except Exception:
            logger.exception("the text of request %s failed", flight.request_id)
            flight.inbox.fail(
                IngotError("The text of this request could not be made.", mend="The server's log says why.")
            )
            self._end(flight)
            return
        for abort in aborts:
            self._tell(abort)
        for chunk in chunks:
            flight.stopwatch.take(chunk)
        flight.inbox.put(chunks)
        if stream.finished:
            flight.inbox.end()
        elif flight.inbox.failed:
            self._end(flight)

    def _end(self, flight: Flight) -> None:
        """Gives the request's place and pages back, whatever became of it. May be called again."""
        if (
            self._flights.pop(flight.request_id, None) is not None
            and flight.stream is not None
            and not flight.stream.finished
        ):
            self._tell(Abort(request_id=flight.request_id))

    def _tell(self, abort: Abort) -> None:
        if self._supervisor.ready:
            self._supervisor.send(abort)

    def _fail_all(self, error: IngotError) -> None:
        for flight in self._flights.values():
            flight.inbox.fail(error)

    def _check_name(self, model: str) -> None:
        if model != self._name:
            raise UnknownModelError(f"No model is called {model[:200]!r}.", mend=f"This server has {self._name!r}.")

    def _ready_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise UnavailableError("The engine is not loaded.", mend="Try again shortly; /health says when.")
        return self._tokenizer


def load_tokenizer(engine: Path) -> Tokenizer:
    """With one chat rendered, so that the first user's does not wait for what rendering imports."""
    tokenizer = Tokenizer.from_engine(engine)
    if tokenizer.has_chat_template:
        with suppress(RequestError):  # some templates want more than this
            tokenizer.encode_prompt(Prompt(messages=[{"role": "user", "content": "hello"}]))
    return tokenizer


def model_card(engine: Path, manifest: Manifest, name: str, vocab_size: int) -> ModelCard:
    return ModelCard(
        name=name,
        created=calendar.timegm(time.strptime(manifest.built_at[:19], "%Y-%m-%dT%H:%M:%S")),
        max_model_len=manifest.limits.max_model_len,
        vocab_size=vocab_size,
        target=manifest.target,
        quant=str(manifest.recipe.get("quant", "none")),
        tasks=manifest.tasks,
        embedding=manifest.embedding,
        fingerprint=hashlib.sha256((engine / FILE_NAME).read_bytes()).hexdigest()[:12],
    )
