"""Runs a program and leaves nothing of it: python triton_guard.py PROGRAM ARGUMENT...

SIGTERM is passed on. When the program ends, or standard input does because whoever started this has died, all processes of
the program's group are killed. A process of its own, for a killed one cannot clean up; and not the kernel's parent-death
signal, which follows the thread that started a process and spares that process's children. Knows nothing of ingot.
"""

import os
import select
import signal
import subprocess
import sys


def main(command: list[str]) -> int:
    """The program's exit status, or 128 and the signal that ended it."""
    own = {signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, own)  # until there is a child to pass it on to
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, own),  # noqa: PLW1509 -- there are no threads
    )
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, own)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this decides
    ended = os.pidfd_open(child.pid)
    select.select([sys.stdin.fileno(), ended], [], [])
    os.killpg(child.pid, signal.SIGKILL)
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
