"""One tritonserver process on loopback ports: started under a guard that ends it with us, its shared memory swept up.

Knows the server's flags and its health routes; knows no models and no tensors.
"""

from __future__ import annotations

import http.client
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from ingot.errors import UnavailableError
from ingot.triton_home import TritonHome

ADMIN_HEADER = "ingot-admin"
# A load may bring files with it, which is remote code, and the others write to this machine: only who knows the key may.
RESTRICTED = "model-repository,shared-memory,trace,logging"
REGIONS = "ingot_"  # with the keeper's process id: what the names of shared memory begin with
GUARD = str(Path(__file__).with_name("triton_guard.py"))
EXIT_SECONDS = 5  # how long the server waits for running requests when told to end


def free_ports(count: int) -> tuple[int, ...]:
    """Ports nobody listens on now, all different."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return tuple(int(probe.getsockname()[1]) for probe in probes)


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):  # it may end meanwhile
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, path.read_text().split())
    return found


def command_line(pid: int) -> str:
    """Empty for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def sweep_regions() -> None:
    """Removes the shared memory of servers whose keeper was killed and could not do it."""
    for path in Path("/dev/shm").glob(f"{REGIONS}*_*"):
        keeper = path.name.removeprefix(REGIONS).partition("_")[0]
        if keeper.isdigit() and not Path("/proc", keeper).exists():
            path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerOptions:
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    admin_key: str = field(default_factory=lambda: secrets.token_urlsafe(16))  # loads, unloads and lists models
    load_timeout: float = 1800.0  # seconds until a load that hangs is killed


class TritonServer:
    """`with TritonServer(home, repository) as server:` yields a live server with every loadable model loaded."""

    def __init__(
        self, home: TritonHome, repository: Path, options: ServerOptions | None = None, *, log: IO[bytes] | None = None
    ) -> None:
        self.options = options or ServerOptions()
        self._home = home
        self.repository = repository
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.region = f"{REGIONS}{os.getpid()}_{secrets.token_hex(4)}_"

    @property
    def grpc_address(self) -> str:
        return f"{self.options.host}:{self.options.grpc_port}"

    @property
    def pid(self) -> int | None:
        """Of tritonserver itself, which its guard has started."""
        if self._process is None:
            return None
        return next(iter(children_of(self._process.pid)), None)

    def hosts(self, model: str, version: str) -> bool:
        """Whether a process of that version lives."""
        program = f"/{model}/{version}/model.py"
        return any(program in command_line(pid) for pid in children_of(self.pid)) if self.pid else False

    def start(self) -> None:
        """Returns when the server is live. Raises DependencyError where there is no Triton, UnavailableError where it
        ends or hangs on the way; a server that hangs is killed."""
        self._home.check()
        sweep_regions()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", GUARD, *self.command()],
            env=self._home.environment(),
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT if self._log else None,
            start_new_session=True,
        )
        try:
            self._wait(self._process)
        except BaseException:
            self.stop()
            raise

    def restart(self) -> None:
        """Starts afresh a server that ended or serves nobody: what is left of it is not waited for. Raises as start()."""
        self.stop(wait=False)
        self.start()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self.options.load_timeout
        while not self.live():
            code = process.poll()
            if code is not None or time.monotonic() > deadline:
                how = f"ended with status {code}" if code is not None else "was not live in time and was killed"
                raise UnavailableError(
                    f"tritonserver {how}.", mend="Its log above says why; a port in use is the usual reason."
                )
            time.sleep(0.05)

    def command(self) -> list[str]:
        options = self.options
        flags = {
            "model-repository": self.repository,
            "backend-directory": self._home.backends,
            "model-control-mode": "explicit",
            "load-model": "*",
            "exit-on-error": "false",  # one broken model must not take the others down
            "strict-readiness": "false",
            "exit-timeout-secs": EXIT_SECONDS,
            "http-address": options.host,
            "http-port": options.http_port,
            "grpc-address": options.host,
            "grpc-port": options.grpc_port,
            "metrics-address": options.host,
            "metrics-port": options.metrics_port,
            "http-restricted-api": f"{RESTRICTED}:{ADMIN_HEADER}={options.admin_key}",
            "grpc-restricted-protocol": f"{RESTRICTED}:{ADMIN_HEADER}={options.admin_key}",
            "backend-config": f"python,shm-region-prefix-name={self.region}",
        }
        switches = ["--disable-auto-complete-config"]
        return [str(self._home.binary), *switches, *(f"--{name}={value}" for name, value in flags.items())]

    def live(self) -> bool:
        connection = http.client.HTTPConnection(self.options.host, self.options.http_port, timeout=2)
        try:
            connection.request("GET", "/v2/health/live")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def metrics(self) -> str:
        """Triton's own metrics and the models', as Prometheus text."""
        url = f"http://{self.options.host}:{self.options.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as reply:
            return str(reply.read().decode())

    def stop(self, *, wait: bool = True) -> None:
        """Asks, waits, kills; whatever happened, no process and no shared memory of this server is left."""
        process = self._process
        if process is None:
            return
        if wait:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=EXIT_SECONDS + 2)
        if process.stdin is not None:
            process.stdin.close()  # the guard kills what is left
        process.wait()
        self._process = None
        for path in Path("/dev/shm").glob(f"{self.region}*"):
            path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
