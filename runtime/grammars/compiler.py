"""Grammars in, constraints out, in the background: the executor asks, goes on stepping, and looks again later.

Keeps the last compiled grammars. Knows the compile process's protocol, not xgrammar's work.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import msgspec

from ingot.errors import DependencyError, IngotError, QueueFullError, RequestError
from ingot.runtime.grammars.messages import Answer, Refused, Vocabulary, encode
from ingot.runtime.params import Grammar
from ingot.runtime.plan import Constraint

START_SECONDS = 120.0  # the compile process imports torch with xgrammar
ANSWER_SECONDS = 15.0  # longer than the process gives a grammar
AT_ONCE = 4  # grammars compiled side by side
MAX_PENDING = 256
MAX_CACHED = 128  # compiled grammars
MAX_CACHED_BYTES = 512 << 20  # that they may hold together; those in use are held by their sequences besides
MODULE = "ingot.runtime.grammars.process"


class GrammarCompiler:
    """`compile` and `close` are called by one thread."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="grammar")
        self._process = CompileProcess(vocabulary)
        self._cache: OrderedDict[Grammar, Future[Constraint]] = OrderedDict()
        self._sizes: dict[Grammar, int] = {}  # bytes of those that are compiled
        self._reading = threading.Lock()
        self._infos: dict[str, Any] = {}  # xgrammar.TokenizerInfo by spelling

    def warm(self) -> None:
        """Starts what the first grammar would wait for, in the background: seconds of imports, here and in the process.
        Only once this thread has imported torch: two threads that import it together may see half of it."""
        self._pool.submit(self._process.start)
        self._pool.submit(self._info, "json_schema")

    @property
    def cached(self) -> int:
        return len(self._cache)

    def compile(self, grammar: Grammar) -> Future[Constraint]:
        """The future raises RequestError where the grammar is wrong or too costly. Raises QueueFullError at once."""
        found = self._cache.get(grammar)
        if found is not None and not (found.done() and found.exception()):
            self._cache.move_to_end(grammar)
            return found
        pending = sum(not future.done() for future in self._cache.values())
        if pending >= MAX_PENDING:
            raise QueueFullError(f"{pending} grammars wait to be compiled.", mend="Send the request again later.")
        future = self._cache[grammar] = self._pool.submit(self._compile, grammar)
        self._evict()
        return future

    def _evict(self) -> None:
        """Forgets the grammars that were asked for longest ago, but none that is being compiled."""
        held = sum(list(self._sizes.values()))  # a copy: other threads add to it
        for grammar, future in list(self._cache.items()):
            if len(self._cache) <= MAX_CACHED and held <= MAX_CACHED_BYTES:
                return
            if future.done():
                held -= self._sizes.pop(grammar, 0)
                del self._cache[grammar]

    def close(self) -> None:
        self._process.close()
        self._pool.shutdown(cancel_futures=True)

    def _compile(self, grammar: Grammar) -> Constraint:
        if not self._vocabulary.eos_token_ids:
            raise RequestError("This engine names no end-of-text token, which grammars need.", mend="Leave it out.")
        answer = self._process.ask(grammar)
        if isinstance(answer, Refused):
            raise RequestError(f"The grammar cannot be used: {answer.reason}.", mend="Correct or simplify it.")
        from ingot.runtime.grammars.matching import compiled_again, read_compiled

        info = self._info(grammar.kind)
        constraint = compiled_again(grammar, info) if answer.text is None else read_compiled(answer.text, info)
        self._sizes[grammar] = constraint.num_bytes
        return constraint

    def _info(self, kind: str) -> Any:
        """The vocabulary as xgrammar holds it, made when a grammar of the kind is first read."""
        with self._reading:
            from ingot.runtime.grammars.process import spelling_of, tokenizer_info

            spelling = spelling_of(kind)
            if spelling not in self._infos:
                self._infos[spelling] = tokenizer_info(self._vocabulary, spelling)
            return self._infos[spelling]


class CompileProcess:
    """Started when it is first needed, and again should it die. Any thread may ask."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._starting = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._closed = False

    def start(self) -> None:
        with self._starting:
            self._ensure()

    def ask(self, grammar: Grammar) -> Answer:
        with self._starting:
            self._ensure()
            connection = self._send_socket()
        with connection:
            try:
                answer = exchange(connection, encode(grammar), ANSWER_SECONDS)
            except OSError:  # the child was killed for what it used, or is about to be
                answer = b""
        if not answer:
            return Refused(reason="compiling it takes too much time or memory")
        found: Answer = msgspec.msgpack.decode(answer, type=Answer)
        return found

    def close(self) -> None:
        """The process ends when its control socket does; kill makes sure. One that is just starting does not outlive it."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        with suppress(OSError):
            if self._control is not None:
                self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _ensure(self) -> None:
        if self._process is None or self._process.poll() is not None:
            self._start()
        if self._closed:
            self._end()
            raise IngotError("The grammar compiler is closed.", mend="Load the engine again.")

    def _start(self) -> None:
        """Raises DependencyError where the process does not come up, which is where xgrammar is missing."""
        self._end()
        self._control, theirs = socket.socketpair()
        with theirs:
            words = [sys.executable, "-m", MODULE, "--socket-fd", str(theirs.fileno())]
            env = os.environ | {"OMP_NUM_THREADS": "1"}  # threads do not survive a fork
            self._process = subprocess.Popen(words, pass_fds=[theirs.fileno()], env=env)
        with self._send_socket() as connection:
            try:
                ready = exchange(connection, encode(self._vocabulary), START_SECONDS)
            except OSError:
                ready = b""
        if not ready:
            raise DependencyError(
                "The process that compiles grammars did not start.",
                mend="Is xgrammar installed? pip install 'ingot[serve]'",
            )

    def _send_socket(self) -> socket.socket:
        if self._control is None:
            raise IngotError("The grammar compiler is closed.", mend="Load the engine again.")
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"."], [theirs.fileno()])
        return ours


def exchange(connection: socket.socket, question: bytes, seconds: float) -> bytes:
    """Writes the question, then reads until the other side has closed."""
    connection.settimeout(seconds)
    connection.sendall(question)
    connection.shutdown(socket.SHUT_WR)
    parts = []
    while part := connection.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)
