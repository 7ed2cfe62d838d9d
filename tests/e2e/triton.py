"""A real Triton server for tests, over engines whose model is fake: everything is real but the arithmetic."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.engines import LOADER, ROOT, load
from tests.fakes import FakeTicket

from ingot.client import Client, ClientOptions
from ingot.client.triton_process import ServerOptions, TritonServer, children_of, command_line, free_ports
from ingot.runtime.executor import Executor
from ingot.runtime.plan import StepPlan
from ingot.templates import Deployment, ModelSpec
from ingot.templates.render import json_text, render
from ingot.triton_home import default_home

ADMIN_KEY = "the key of the tests"
FAILING_LOADER = "tests.e2e.triton:load_failing"
FAILS_AT_STEP = 12


def load_failing(engine: Path) -> Executor:
    """An executor whose program breaks in the middle of things, as a lost GPU does."""
    executor = load(engine)
    launch, steps = executor._program.launch, iter(range(FAILS_AT_STEP))

    def fail_late(plan: StepPlan) -> FakeTicket:
        if next(steps, None) is None:
            raise RuntimeError("the device is lost")
        return launch(plan)  # type: ignore[return-value]

    executor._program.launch = fail_late  # type: ignore[method-assign]
    return executor


def put_version(repository: Path, name: str, version: int, engine: Path, loader: str = LOADER) -> None:
    """What `ingot render` writes for one version, with the fake model's loader. Triton notices at the next load."""
    model = ModelSpec(name=name, versions={version: str(engine)}, policy="latest")
    render(Deployment(models=(model,)), repository)
    pointer = repository / name / str(version) / "engine.json"
    pointer.write_text(json_text({"engine": str(engine), "loader": loader}))


@contextmanager
def triton(repository: Path, *, quiet: bool = False) -> Iterator[TritonServer]:
    """A server over the repository, on free ports. Its log is printed at the end, unless `quiet`."""
    http, grpc, metrics = free_ports(3)
    options = ServerOptions(http_port=http, grpc_port=grpc, metrics_port=metrics, admin_key=ADMIN_KEY, load_timeout=120)
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), before])  # the server's processes import this module
    try:
        with tempfile.TemporaryFile() as log:
            try:
                with TritonServer(default_home(), repository, options, log=log) as server:
                    yield server
            finally:
                log.seek(0)
                if not quiet:
                    print(log.read().decode(errors="replace")[-20_000:])
    finally:
        os.environ["PYTHONPATH"] = before


def client_of(server: TritonServer) -> Client:
    return Client(server.grpc_address, options_of())


def options_of() -> ClientOptions:
    return ClientOptions(admin_key=ADMIN_KEY, timeout=60)


def processes(server: TritonServer, model: str) -> list[int]:
    """The processes that host a model's versions."""
    return [pid for pid in children_of(server.pid or 0) if f"/{model}/" in command_line(pid)]
