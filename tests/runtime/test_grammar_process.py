"""The grammar process alone: how it ends."""

from __future__ import annotations

import socket
import subprocess
import sys

import msgspec
from tests.runtime.tokens import byte_tokenizer


def test_a_process_whose_executor_is_gone_ends_without_a_word() -> None:
    control, theirs = socket.socketpair()
    ours, question = socket.socketpair()
    command = [sys.executable, "-m", "ingot.runtime.grammars.process", "--socket-fd", str(theirs.fileno())]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE) as process:
        socket.send_fds(control, [b"q"], [question.fileno()])
        ours.sendall(msgspec.msgpack.encode(byte_tokenizer().vocabulary()))
        for one in (ours, question, control, theirs):
            one.close()
        _, said = process.communicate(timeout=120)
    assert (process.returncode, b"Traceback" in said) == (0, False), said
