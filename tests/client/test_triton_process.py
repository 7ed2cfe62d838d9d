"""Starting a local Triton: what is missing is said, what hangs is killed, what is left is swept up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ingot.cli import cli
from ingot.client.triton_process import GUARD, REGIONS, ServerOptions, TritonServer, free_ports, sweep_regions
from ingot.errors import DependencyError, UnavailableError
from ingot.triton_home import TritonHome, default_home, machine_lacks

LEAVES_A_REGION = """
import pathlib, sys, time
flags = dict(flag.lstrip("-").split("=", 1) for flag in sys.argv[1:] if "=" in flag)
region = flags["backend-config"].rpartition("=")[2]
pathlib.Path("/dev/shm", region + "left").write_text("")
"""


def home_with(folder: Path, program: str) -> TritonHome:
    """A home whose tritonserver is a Python program."""
    home = TritonHome(folder)
    for path in (home.binary, home.stub, home.stub_env / "bin" / "python"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    home.binary.write_text(f"#!{sys.executable}\n{program}\n")
    home.binary.chmod(0o755)
    return home


def options(timeout: float) -> ServerOptions:
    http, grpc, metrics = free_ports(3)
    return ServerOptions(http_port=http, grpc_port=grpc, metrics_port=metrics, load_timeout=timeout)


def regions(server: TritonServer) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{server.region}*"))


def test_a_server_that_hangs_is_killed_and_swept_up(tmp_path: Path) -> None:
    home = home_with(tmp_path, LEAVES_A_REGION + "time.sleep(600)")
    server = TritonServer(home, tmp_path, options(1.5))
    with pytest.raises(UnavailableError, match="was killed"):
        server.start()
    assert not server.running()
    assert not regions(server)


def test_a_server_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    server = TritonServer(home_with(tmp_path, LEAVES_A_REGION + "sys.exit(3)"), tmp_path, options(60))
    with pytest.raises(UnavailableError, match="ended with status 3"):
        server.start()
    assert not regions(server)


def test_the_guard_passes_on_how_its_program_ended() -> None:
    for program, status in (("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 128 + 9)):
        command = [sys.executable, "-I", "-S", GUARD, sys.executable, "-c", program]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as guard:
            assert guard.wait(20) == status


def test_the_guard_leaves_nothing_when_who_started_it_is_killed() -> None:
    """The program ignores SIGTERM and has a child, as a server has; both hold the pipe, which ends with the last of them."""
    program = (
        "import os, signal, time; signal.signal(15, signal.SIG_IGN); os.fork(); os.write(1, b'up\\n'); time.sleep(600)"
    )
    keeper = "import subprocess, sys; guard = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE); guard.wait()"  # holds stdin
    command = [sys.executable, "-c", keeper, sys.executable, "-I", "-S", GUARD, sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as keeping:
        assert keeping.stdout is not None
        try:
            assert [keeping.stdout.readline() for _ in range(2)] == ["up\n", "up\n"]
        finally:
            keeping.kill()
        assert keeping.stdout.read() == ""


def test_memory_of_killed_keepers_is_swept_up_and_of_living_ones_kept() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    left, used = Path(f"/dev/shm/{REGIONS}{ended.pid}_left"), Path(f"/dev/shm/{REGIONS}{os.getpid()}_used")
    for path in (left, used):
        path.write_text("")
    sweep_regions()
    assert (left.exists(), used.exists()) == (False, True)
    used.unlink()


def test_everything_listens_on_loopback_and_loading_needs_the_key(tmp_path: Path) -> None:
    server = TritonServer(TritonHome(tmp_path), tmp_path, ServerOptions(admin_key="secret"))
    flags = dict(flag.lstrip("-").split("=", 1) for flag in server.command()[1:] if "=" in flag)
    assert {flags[f"{kind}-address"] for kind in ("http", "grpc", "metrics")} == {"127.0.0.1"}
    for name in ("http-restricted-api", "grpc-restricted-protocol"):
        assert "model-repository" in flags[name]
        assert flags[name].endswith("=secret")


def test_a_missing_triton_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_TRITON_HOME", str(tmp_path / "none"))
    done = CliRunner().invoke(cli, ["triton", "--repository", str(tmp_path)])
    assert isinstance(done.exception, DependencyError)
    assert "ingot triton --install" in done.exception.mend
    assert "ingot triton --install" in CliRunner().invoke(cli, ["doctor"], env={"COLUMNS": "300"}).output


def test_a_home_of_another_python_is_not_used(tmp_path: Path) -> None:
    home = home_with(tmp_path, "")
    assert home.missing() == []
    (home.stub_env / "bin" / "python").unlink()
    assert "another Python" in home.missing()[0]


def test_the_tests_have_a_triton() -> None:
    """The other tests of Triton start the real server: `make triton-home` brings it."""
    assert machine_lacks() == []
    assert default_home().missing() == []
