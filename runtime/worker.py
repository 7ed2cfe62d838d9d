"""The executor's process: takes token requests from a socket, steps while there is work, sends tokens back.

Three threads: the main one steps, one receives, one sends a heartbeat however long a step takes. It ends when its
parent's end of the socket closes; signals sent to the whole group are the parent's to answer.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from ingot.errors import IngotError
from ingot.runtime.logs import set_up_logs
from ingot.runtime.messages import (
    Abort,
    ExecutorFailed,
    FromExecutor,
    Ready,
    RequestFailed,
    Stats,
    ToExecutor,
    TokenChunk,
    TokenRequest,
)
from ingot.runtime.wire import requests_reader, to_frame

HEARTBEAT_SECONDS = 0.4
RECEIVE_BYTES = 1 << 18
DEFAULT_LOADER = "ingot.runtime.load:load_executor"

logger = logging.getLogger(__name__)


class StepLoop(Protocol):
    """What the worker needs of an executor; all of it is called by one thread."""

    @property
    def has_work(self) -> bool: ...

    def add(self, request: TokenRequest) -> None: ...

    def abort(self, request_id: str, index: int | None = None) -> None: ...

    def step(self) -> Sequence[TokenChunk | RequestFailed]: ...

    def stats(self) -> Stats: ...


class Worker:
    """One executor behind one socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._inbox: queue.SimpleQueue[list[ToExecutor]] = queue.SimpleQueue()
        self._stats: Stats | None = None

    def run(self, load: Callable[[], StepLoop]) -> int:
        """Serves until the parent is gone. Returns a non-zero exit status if the engine does not load or a step raises."""
        threading.Thread(target=self._receive, name="receive", daemon=True).start()
        try:
            began = time.monotonic()
            executor = load()
            self._stats = executor.stats()
            self._send([Ready(stats=self._stats, load_seconds=time.monotonic() - began)])
            threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
            self._serve(executor)
        except IngotError as error:
            self._send([ExecutorFailed(code=error.code, message=error.message, mend=error.mend)])
        except Exception as error:
            logger.exception("the executor failed")
            self._send(
                [
                    ExecutorFailed(
                        code=IngotError.code,
                        message=f"The executor failed with {type(error).__name__}.",
                        mend="Send the request again; the server's log says more.",
                    )
                ]
            )
        return 1

    def _serve(self, executor: StepLoop) -> None:
        while True:
            for message in self._take(wait=not executor.has_work):
                if isinstance(message, Abort):
                    executor.abort(message.request_id, message.index)
                else:
                    executor.add(message)
            self._stats = executor.stats()  # a heartbeat during the step says that there is work
            replies = executor.step() if executor.has_work else []
            self._stats = executor.stats()
            self._send([*replies, self._stats])

    def _take(self, *, wait: bool) -> list[ToExecutor]:
        """Everything received so far; with `wait`, sleeps until there is something."""
        messages: list[ToExecutor] = self._inbox.get() if wait else []
        while not self._inbox.empty():
            messages += self._inbox.get()
        return messages

    def _send(self, messages: Sequence[FromExecutor]) -> None:
        frame = to_frame(messages)
        with self._sending:
            self._connection.sendall(frame)

    def _receive(self) -> None:
        reader = requests_reader()
        status = 0
        try:
            while data := self._connection.recv(RECEIVE_BYTES):
                if messages := reader.feed(data):
                    self._inbox.put(messages)
        except ConnectionError:
            pass
        except ValueError:
            logger.exception("the parent sent what is no message")
            status = 1
        os._exit(status)  # the parent is gone; the main thread may be deep in a step that nobody waits for

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT_SECONDS)
            if self._stats is not None:
                self._send([self._stats])


def load_from(loader: str, engine: Path) -> StepLoop:
    """Calls `module:function` with the engine folder."""
    module, _, function = loader.partition(":")
    executor: StepLoop = getattr(importlib.import_module(module), function)(engine)
    return executor


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="ingot.runtime.worker", description="Started by a server, not by people.")
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--socket-fd", type=int, required=True)
    parser.add_argument("--loader", default=DEFAULT_LOADER, help="module:function that makes an executor of an engine")
    parser.add_argument("--log-level", default="WARNING")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    set_up_logs(options.log_level, options.log_format, process="executor")
    os.set_inheritable(options.socket_fd, False)  # else a grandchild would keep the parent from seeing this process die
    with socket.socket(fileno=options.socket_fd) as connection:
        return Worker(connection).run(lambda: load_from(options.loader, options.engine))


if __name__ == "__main__":
    sys.exit(main())
