"""Builds plans in a bounded subprocess: whatever becomes of the library inside is an error of ours, and its log is kept.

Knows processes, time and memory; what is built the job says.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from ingot.builder.onnx import write_model
from ingot.builder.tensorrt.segments import Piece
from ingot.builder.tensorrt.worker import ERROR, REFUSED, PlanJob, PlanOrder, PlanResult
from ingot.errors import CapacityError, EngineError

NO_GPU = "Cuda Runtime"  # in complaints that a machine without a GPU always logs
WORKER = "ingot.builder.tensorrt.worker"
POLL = 0.05  # seconds
MAX_QUOTE = 2000  # characters of the library's own words


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What building one plan may take."""

    seconds: float = 1800
    memory: int = psutil.virtual_memory().total * 9 // 10  # bytes


def build_piece(piece: Piece, folder: Path, order: PlanOrder, bounds: Bounds) -> PlanResult:
    """Writes plan/<name>.plan and plan/<name>.log; the ONNX file lives only as long as the build."""
    log = folder / "plan" / f"{piece.name}.log"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".onnx-") as name:
        work = Path(name)
        write_model(piece.model, work / "model.onnx")
        job = PlanJob(
            model=str(work / "model.onnx"),
            plan=str(folder / "plan" / f"{piece.name}.plan"),
            log=str(log),
            result=str(work / "result.json"),
            order=order,
        )
        (work / "job.json").write_bytes(msgspec.json.encode(job))
        run_worker(f"{order.title} at {piece.name}", work / "job.json", log, bounds)
        return msgspec.json.decode((work / "result.json").read_bytes(), type=PlanResult)


def run_worker(what: str, job: Path, log: Path, bounds: Bounds) -> None:
    """Raises what became of the worker, unless it finished."""
    command = [sys.executable, "-m", WORKER, str(job)]
    with (job.parent / "stderr").open("w+") as stderr:
        code = watch(what, psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr), log, bounds)
        stderr.seek(0)
        said = errors(log) or stderr.read().strip().splitlines()[-1:]
    if code == 0:
        return
    end = "refused" if code == REFUSED else f"died with exit code {code}"
    why = " ".join(said)[:MAX_QUOTE] or "it did not say why"
    raise EngineError(f"{what} {end}: {why}", mend=f"The whole log is {kept(log)}.")


def watch(what: str, worker: psutil.Popen, log: Path, bounds: Bounds) -> int:
    """The exit code. A worker past its bounds is killed from outside: allocations that fail inside make the library hang."""
    deadline = time.monotonic() + bounds.seconds
    try:
        while True:
            try:
                return int(worker.wait(timeout=POLL))
            except psutil.TimeoutExpired:
                used = resident(worker)
            if used > bounds.memory:
                raise CapacityError(
                    f"{what} took {used >> 20} MiB of the {bounds.memory >> 20} MiB it may.",
                    mend="Use a machine with more RAM, or --target cuda.",
                )
            if time.monotonic() > deadline:
                raise CapacityError(
                    f"{what} did not finish within {bounds.seconds:g} s; its log is {kept(log)}.",
                    mend="Use a faster machine, or lower --max-num-batched-tokens.",
                )
    finally:
        if worker.poll() is None:
            worker.kill()
            worker.wait()


def resident(worker: psutil.Popen) -> int:
    try:
        return int(worker.memory_info().rss)
    except psutil.NoSuchProcess:  # it ended since the last look
        return 0


def errors(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    found = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    return [line for line in found if NO_GPU not in line] or found


def kept(log: Path) -> Path:
    """A copy that outlives the folder of a build that failed."""
    with tempfile.NamedTemporaryFile(prefix=f"ingot-{log.stem}-", suffix=".log", delete=False) as file:
        file.write(log.read_bytes() if log.is_file() else b"")
    return Path(file.name)
