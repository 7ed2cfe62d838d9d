"""The command line as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys


def ingot(*words: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ingot.cli", *words]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
