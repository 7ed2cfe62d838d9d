"""Target tensorrt-rtx: one plan per distinct segment of the graph, each built in a bounded subprocess.

Knows what TensorRT-RTX can build for which GPU; the graph is builder.onnx's, the cutting segments.py's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from ingot.builder.onnx import EngineWeights, build_graph, write_model
from ingot.builder.tensorrt.log import activation_bytes, computes_in, layers
from ingot.builder.tensorrt.segments import Piece, cut, pieces
from ingot.builder.tensorrt.support import check
from ingot.builder.tensorrt.worker import ERROR, REFUSED, PlanJob, PlanResult
from ingot.errors import CapacityError, EngineError
from ingot.manifest import Limits
from ingot.network.config import ModelConfig
from ingot.network.weights import LINEARS, Scheme
from ingot.plans import PlanRecord, Plans, Segment

USUAL_TOKENS = 64  # the batch kernels are picked for
NO_GPU = "Cuda Runtime"  # in complaints that a machine without a GPU always logs
WORKER = "ingot.builder.tensorrt.worker"
POLL = 0.05  # seconds
MAX_QUOTE = 2000  # characters of the library's own words
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What building one plan may take."""

    seconds: float = 1800
    memory: int = psutil.virtual_memory().total * 9 // 10  # bytes


def compile_rtx(
    weights: EngineWeights,
    config: ModelConfig,
    folder: Path,
    *,
    limits: Limits,
    dtype: str,
    sms: Sequence[int],
    bounds: Bounds | None = None,
    advance: Progress = lambda segments: None,
) -> Plans:
    """Writes folder/plan/*.plan, their build logs and segments.json; `advance` hears of every finished segment.

    Raises RecipeError for a scheme that an SM does not have, DependencyError without the library, CapacityError past
    the bounds, EngineError where the library fails or a quantized GEMM was not fused.
    """
    schemes = {name: weights.scheme(name) for name in linear_names(config)}
    check(set(schemes.values()), sms)
    graph = build_graph(
        weights,
        config,
        dtype=dtype,
        kv_dtype=dtype,  # the cache stays outside the plans
        page_size=limits.page_size,
        max_positions=limits.max_model_len,
        fp4_inputs=True,
    )
    todo = pieces(cut(graph), share=set(schemes.values()) == {Scheme.NONE})
    (folder / "plan").mkdir(parents=True, exist_ok=True)
    sizes = dynamic_sizes(limits)
    records, library = [], ""
    for piece in todo:
        result = build_piece(piece, folder, sms=sms, sizes=sizes, bounds=bounds or Bounds())
        records.append(record(piece, folder, result, schemes))
        library = result.library
        advance(len(piece.segments))
    plans = Plans(library=library, sm=sorted(sms), segments=in_order(todo), plans=records)
    plans.write(folder)
    return plans


def linear_names(config: ModelConfig) -> list[str]:
    return [f"layers.{layer}.{kind}" for layer in range(config.num_layers) for kind in LINEARS]


def dynamic_sizes(limits: Limits) -> dict[str, tuple[int, int, int]]:
    """Least, usual and most of the graph's dynamic dimensions."""
    tokens, rows = limits.max_num_batched_tokens, min(limits.max_num_seqs, limits.max_num_batched_tokens)
    return {"tokens": (1, min(USUAL_TOKENS, tokens), tokens), "rows": (1, min(USUAL_TOKENS, rows), rows)}


def build_piece(
    piece: Piece, folder: Path, *, sms: Sequence[int], sizes: dict[str, tuple[int, int, int]], bounds: Bounds
) -> PlanResult:
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
            sms=sorted(sms),
            sizes=sizes,
        )
        (work / "job.json").write_bytes(msgspec.json.encode(job))
        run_worker(piece.name, work / "job.json", log, bounds)
        return msgspec.json.decode((work / "result.json").read_bytes(), type=PlanResult)


def run_worker(name: str, job: Path, log: Path, bounds: Bounds) -> None:
    """Raises what became of the worker, unless it finished."""
    command = [sys.executable, "-m", WORKER, str(job)]
    with (job.parent / "stderr").open("w+") as stderr:
        code = watch(name, psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr), log, bounds)
        stderr.seek(0)
        said = errors(log) or stderr.read().strip().splitlines()[-1:]
    if code == 0:
        return
    verb = "refused" if code == REFUSED else f"died with exit code {code} at"
    why = " ".join(said)[:MAX_QUOTE] or "it did not say why"
    raise EngineError(f"TensorRT-RTX {verb} {name}: {why}", mend=f"The whole log is {kept(log)}.")


def watch(name: str, worker: psutil.Popen, log: Path, bounds: Bounds) -> int:
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
                    f"Building {name} took {used >> 20} MiB of the {bounds.memory >> 20} MiB it may.",
                    mend="Use a machine with more RAM, or --target cuda.",
                )
            if time.monotonic() > deadline:
                raise CapacityError(
                    f"TensorRT-RTX did not finish {name} within {bounds.seconds:g} s; its log is {kept(log)}.",
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


def record(piece: Piece, folder: Path, result: PlanResult, schemes: dict[str, Scheme]) -> PlanRecord:
    """Raises EngineError naming the quantized linears whose GEMM is not what the scheme says."""
    path = folder / "plan" / f"{piece.name}.log"
    log = path.read_text(errors="replace")
    found = list(layers(log))
    linears = {
        name: computes_in(found, f"{inside.removesuffix('.weight')}/MatMul", schemes[name])
        for segment in piece.segments
        for inside, source in segment.names.items()
        if (name := source.removesuffix(".weight")) in schemes
    }
    unfused = {name: types for name, types in linears.items() if types not in (str(schemes[name]), "float")}
    if unfused:
        listed = ", ".join(f"{name} ({schemes[name]}) reads {types}" for name, types in sorted(unfused.items()))
        raise EngineError(
            f"TensorRT-RTX did not fuse these quantized products: {listed}.",
            mend=f"Use another --quant, and report the log: {kept(path)}.",
        )
    return PlanRecord(
        plan=f"{piece.name}.plan",
        serves=len(piece.segments),
        size=(folder / "plan" / f"{piece.name}.plan").stat().st_size,
        seconds=round(result.seconds, 3),
        peak_rss=result.peak_rss,
        activation_bytes=activation_bytes(log),
        linears=linears,
    )


def in_order(todo: Sequence[Piece]) -> list[Segment]:
    found = {
        segment.index: Segment(
            plan=f"{piece.name}.plan",
            inputs=segment.inputs,
            outputs=segment.outputs,
            weights={name: segment.names[name] for name in piece.weights},
        )
        for piece in todo
        for segment in piece.segments
    }
    return [found[index] for index in sorted(found)]
