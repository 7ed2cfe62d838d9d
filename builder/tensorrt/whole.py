"""Target tensorrt: the whole graph as one strongly typed plan with attention inside it, built in a bounded subprocess.

Knows what of an engine the plan needs to know; the graph is builder.onnx's, the calls to the library worker.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ingot.builder.onnx import EngineWeights, build_graph
from ingot.builder.tensorrt.log import activation_bytes, computes_in, layers
from ingot.builder.tensorrt.process import Bounds, build_piece
from ingot.builder.tensorrt.profiles import tensorrt_profiles
from ingot.builder.tensorrt.rtx import linear_names
from ingot.builder.tensorrt.segments import Piece, Segment
from ingot.builder.tensorrt.worker import PlanOrder, PlanResult, PluginOrder
from ingot.manifest import Limits
from ingot.network.config import ModelConfig
from ingot.network.weights import Scheme
from ingot.plans import PlanRecord, Plans
from ingot.plans import Segment as Step
from ingot.tensorrt_library import LIBRARIES

TIMINGS = "plan/timing.cache"  # in an engine folder
WORKSPACE = 4 << 30  # what is more is wanted for the KV cache
FP4_INPUTS_SM = 100


def compile_whole(
    weights: EngineWeights,
    config: ModelConfig,
    folder: Path,
    *,
    limits: Limits,
    dtype: str,
    kv_dtype: str,
    sm: int,
    device: str = "cuda",
    previous: Path | None = None,
    bounds: Bounds | None = None,
    advance: Callable[[int], None] = lambda layers: None,
) -> Plans:
    """Writes folder/plan: the plan, its build log, the timings it chose kernels by, and segments.json.

    `sm` is the GPU's at hand. `previous` is an engine built before: its timings are used where TensorRT finds that they
    fit. Raises CapacityError past the bounds, EngineError where the library fails.
    """
    graph = build_graph(
        weights,
        config,
        dtype=dtype,
        kv_dtype=kv_dtype,
        page_size=limits.page_size,
        max_positions=limits.max_model_len,
        fp4_inputs=sm >= FP4_INPUTS_SM,
    )
    segment = Segment(index=0, model=graph, names={})
    (folder / "plan").mkdir(parents=True, exist_ok=True)
    known = previous / TIMINGS if previous else None
    library = LIBRARIES["tensorrt"]
    order = PlanOrder(
        title=library.title,
        package=library.package,
        profiles=list(tensorrt_profiles(limits, config)),
        plugin=PluginOrder(
            max_seqs=limits.max_num_seqs, num_heads=config.num_heads, head_dim=config.head_dim, device=device
        ),
        workspace=WORKSPACE,
        timings_read=str(known.absolute()) if known and known.is_file() else None,
        timings_written=str(folder / TIMINGS),
    )
    piece = Piece(name="model", model=graph, segments=(segment,))
    inputs, outputs = segment.inputs, segment.outputs
    result = build_piece(piece, folder, order, bounds or Bounds())
    advance(config.num_layers + 1)
    schemes = {name: weights.scheme(name) for name in linear_names(config)}
    plans = Plans(
        product=library.title,
        library=result.library,
        sm=[sm],
        segments=[Step(plan="model.plan", inputs=inputs, outputs=outputs, weights={})],
        plans=[record(folder, result, schemes)],
    )
    plans.write(folder)
    return plans


def record(folder: Path, result: PlanResult, schemes: dict[str, Scheme]) -> PlanRecord:
    """What each linear computes in is told as the log tells it, not judged: docs/tensorrt.md says why."""
    log = (folder / "plan" / "model.log").read_text(errors="replace")
    found = list(layers(log))
    return PlanRecord(
        plan="model.plan",
        serves=1,
        size=(folder / "plan" / "model.plan").stat().st_size,
        seconds=round(result.seconds, 3),
        peak_rss=result.peak_rss,
        activation_bytes=activation_bytes(log),
        linears={name: computes_in(found, f"{name}/MatMul", scheme) for name, scheme in schemes.items()},
    )
