"""The parent's side of the process that renders chat templates: starts it, asks it, waits no longer than is sane."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import weakref
from typing import Any

from ingot.errors import IngotError

MODULE = "ingot.runtime.template_process"
LENGTH = struct.Struct("<I")
END_SECONDS = 5.0
ANSWER_SECONDS = 60.0  # on the clock of a busy machine; the process counts its own CPU time


class Renderer:
    """One process for all templates of this one, started when it is first needed. Any thread may ask; chats take turns."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._connection: socket.socket | None = None
        self._end: weakref.finalize[Any, Renderer] | None = None

    def ask(self, call: dict[str, Any]) -> dict[str, str]:
        """What runtime/template_process.py answers to the arguments of a rendering. Raises IngotError where it does not."""
        body = json.dumps(call).encode()
        with self._turn:
            if self._connection is None:
                self._start()
            try:
                answer = exchange(self._connection, body)
            except OSError:
                answer = None
            if answer is None:
                self.close()
                raise IngotError("The process that renders chats is gone.", mend="Send the request again.")
        found: dict[str, str] = json.loads(answer)
        return found

    def close(self) -> None:
        if self._end is not None:
            self._end()
        self._connection = self._end = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(ANSWER_SECONDS)
        with theirs:
            words = [sys.executable, "-m", MODULE, "--socket-fd", str(theirs.fileno())]
            process = subprocess.Popen(words, pass_fds=[theirs.fileno()], start_new_session=True)
        self._connection = ours
        self._end = weakref.finalize(self, end, ours, process)


def exchange(connection: socket.socket | None, body: bytes) -> bytes | None:
    """None where the other side has closed. Raises OSError where it does not answer in time."""
    if connection is None:
        return None
    connection.sendall(LENGTH.pack(len(body)) + body)
    head = receive(connection, LENGTH.size)
    return None if head is None else receive(connection, *LENGTH.unpack(head))


def receive(connection: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(min(size - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)


def end(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """The process and its child: they end with their socket, and are killed where they do not look at it."""
    connection.close()
    try:
        process.wait(END_SECONDS)  # the first process reaps its child
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


RENDERER = Renderer()
