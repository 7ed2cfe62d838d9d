"""The process that renders chat templates, so that a hostile one can loop or eat memory without harming anybody.

The first process imports the library and forks; its child renders for as long as each chat keeps within its CPU seconds and
bytes. Where one does not, the kernel kills the child, and the first process says so and forks again. Frames are JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from transformers.utils.chat_template_utils import render_jinja_template

CPU_SECONDS = 1.0  # of one chat
EXTRA_BYTES = 512 << 20  # address space that rendering may add
MAX_TEXT = 16 << 20  # characters of what is rendered
LENGTH = struct.Struct("<I")
PARENT_GONE = 3  # the child's exit status

# What a template can raise on messages it was not written for; jinja2's own errors come on top.
TEMPLATE_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
SPENT = {"refused": f"rendering them takes more than {CPU_SECONDS:.0f} s or {EXTRA_BYTES >> 20} MiB"}


def render(call: dict[str, Any]) -> dict[str, str]:
    """`text`, or why there is none: `refused` is about the messages, `broken` about the template."""
    try:
        text = render_jinja_template(**call)[0][0]
    except TemplateSyntaxError as error:
        return {"broken": str(error)[:500]}
    except (TemplateError, *TEMPLATE_ERRORS) as error:
        return {"refused": str(error)[:500]}
    if len(text) > MAX_TEXT:
        return {"refused": f"the text has {len(text)} characters; {MAX_TEXT} are allowed"}
    return {"text": text}


def serve(connection: socket.socket) -> int:
    """The child's work."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while (call := read_frame(connection)) is not None:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # SIGPROF ends the process
        try:
            answer = render(call)
        except MemoryError:
            answer = SPENT
        signal.setitimer(signal.ITIMER_PROF, 0)
        write_frame(connection, answer)
    return PARENT_GONE


def read_frame(connection: socket.socket) -> Any:
    """None where the other side has closed."""
    head = connection.recv(LENGTH.size, socket.MSG_WAITALL)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    return json.loads(connection.recv(size, socket.MSG_WAITALL))


def write_frame(connection: socket.socket, value: Any) -> None:
    body = json.dumps(value).encode()
    connection.sendall(LENGTH.pack(len(body)) + body)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="ingot.runtime.template_process", description="Started by a server.")
    parser.add_argument("--socket-fd", type=int, required=True)
    options = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(fileno=options.socket_fd) as connection:
        while True:
            child = os.fork()
            if child == 0:
                os._exit(serve(connection))
            _, status = os.waitpid(child, 0)
            if os.WIFEXITED(status):
                return os.WEXITSTATUS(status)
            write_frame(connection, SPENT)


if __name__ == "__main__":
    sys.exit(main())
