"""One engine hosted in this process: an executor in a thread, replies out of another. Knows no Triton and no HTTP.

submit() --inbox--> step thread (owns the executor) --outbox--> reply thread --> Caller.send()
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from ingot.errors import ExecutorDiedError, IngotError, UnavailableError
from ingot.manifest import Manifest, read_manifest
from ingot.runtime.calls import (
    AbortCall,
    Call,
    Describe,
    Description,
    Detokenize,
    Embed,
    Generate,
    Reply,
    Tokenize,
)
from ingot.runtime.embed_stream import EmbedStream
from ingot.runtime.generation_config import sampling_defaults
from ingot.runtime.messages import Abort, Stats, TokenRequest
from ingot.runtime.replies import Caller, Outcome, Replies, Timing
from ingot.runtime.request import Prompt
from ingot.runtime.streams import RequestStream, Stream
from ingot.runtime.text import Tokenizer
from ingot.runtime.validate import check_task
from ingot.runtime.worker import DEFAULT_LOADER, StepLoop, load_from

TICK_SECONDS = 1.0  # between two reports of the executor's counters
JOIN_SECONDS = 30.0

logger = logging.getLogger(__name__)


class Observer(Timing, Protocol):
    """Where figures go; called by the reply thread."""

    def counters(self, stats: Stats) -> None: ...


class Host:
    """Takes calls from any thread until closed."""

    def __init__(
        self,
        executor: StepLoop,
        tokenizer: Tokenizer,
        manifest: Manifest,
        observer: Observer | None = None,
        *,
        max_waiting: int = 1024,
        sampling: dict[str, float] | None = None,
    ) -> None:
        """At most `max_waiting` sequences wait beyond those the engine can run at once; more are refused.

        `sampling`: what the checkpoint's generation_config.json asks for, told to those who ask what runs here.
        """
        self._executor = executor
        self._tokenizer = tokenizer
        self._manifest = manifest
        self._fingerprint = hashlib.sha256(msgspec.json.encode(manifest)).hexdigest()[:12]
        self._observer = observer
        self._sampling = sampling or {}
        self._ticked = 0.0
        self._inbox: queue.SimpleQueue[TokenRequest | Abort | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Sequence[Outcome] | IngotError] = queue.SimpleQueue()
        self._replies = Replies(self._inbox.put, observer, room=manifest.limits.max_num_seqs + max_waiting)
        self.stats = executor.stats()
        self._threads = [
            threading.Thread(target=self._run, name="steps", daemon=True),
            threading.Thread(target=self._replies.run, args=(self._outbox, self._tick), name="replies", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, call: Call, caller: Caller) -> None:
        """Starts a call; the caller hears the rest. Raises IngotError where it cannot start: then nothing follows."""
        if self._replies.ended is not None:
            raise self._replies.ended
        match call:
            case Generate() | Embed():
                self._replies.open(call, caller, self._stream)
                return
            case AbortCall():
                self._replies.abort(call.request_id)
                reply = Reply()
            case Tokenize():
                reply = Reply(token_ids=self._tokenizer.encode_prompt(call.prompt))
            case Detokenize():
                reply = Reply(text=self._tokenizer.decode(call.token_ids))
            case Describe():
                manifest = msgspec.structs.replace(self._manifest, files={})
                description = Description(
                    manifest=manifest,
                    fingerprint=self._fingerprint,
                    vocab_size=self._tokenizer.vocab_size,
                    stats=self.stats,
                    sampling=self._sampling,
                )
                reply = Reply(description=description)
        caller.send(reply, final=True)

    def close(self) -> None:
        """Ends what still runs, with an error to each caller, and gives the engine's memory back. Safe to call twice."""
        self._inbox.put(None)
        for thread in self._threads:
            thread.join(JOIN_SECONDS)

    def _stream(self, call: Generate | Embed) -> Stream:
        if isinstance(call, Embed):
            return EmbedStream(call.request, self._tokenizer, self._manifest)
        check_task(self._manifest, "generate")
        return RequestStream(call.request, self._tokenizer, self._manifest.limits)

    def _run(self) -> None:
        """The step thread's work."""
        end: IngotError = UnavailableError(
            f"The engine {self._manifest.name} was unloaded.", mend="Ask again when it is loaded."
        )
        try:
            while self._take():
                if outcomes := self._executor.step():
                    self._outbox.put(outcomes)
                self.stats = self._executor.stats()
        except Exception as error:
            logger.exception("the executor of %s failed", self._manifest.name)
            end = ExecutorDiedError(
                f"The executor failed with {type(error).__name__}: {error}.", mend="Load the model again."
            )
        self._outbox.put(end)

    def _take(self) -> bool:
        """Hands what has arrived to the executor; sleeps while there is nothing to do. False when the host closes."""
        executor = self._executor
        while not executor.has_work or not self._inbox.empty():
            message = self._inbox.get()
            if message is None:
                return False
            if isinstance(message, Abort):
                executor.abort(message.request_id, message.index)
            else:
                executor.add(message)
        return True

    def _tick(self) -> None:
        now = time.monotonic()
        if self._observer is not None and now - self._ticked > TICK_SECONDS:
            self._ticked = now
            self._observer.counters(self.stats)


def open_host(
    engine: Path, observer: Observer | None = None, *, max_waiting: int = 1024, loader: str = DEFAULT_LOADER
) -> Host:
    """Loads an engine. Raises EngineError with the manifest's sentence where it does not fit this machine.

    `loader` is the `module:function` that makes an executor of an engine folder, as in runtime/worker.py.
    """
    manifest = read_manifest(engine)
    executor = load_from(loader, engine)
    tokenizer = Tokenizer.from_engine(engine)
    threading.Thread(target=warm_chat, args=(tokenizer,), name="warm", daemon=True).start()
    sampling = sampling_defaults(engine)
    return Host(executor, tokenizer, manifest, observer, max_waiting=max_waiting, sampling=sampling)


def warm_chat(tokenizer: Tokenizer) -> None:
    """The first chat imports the template library, which takes seconds: better now than in somebody's request."""
    if tokenizer.has_chat_template:
        with contextlib.suppress(IngotError):
            tokenizer.encode_prompt(Prompt(messages=[{"role": "user", "content": "?"}]))
