"""The decoder as TensorRT-RTX plans: a segment, attention, the next segment, all on one stream, into buffers of its own.

Knows plans and addresses; what attention is, it is handed. Nothing here waits for the GPU, so a caller may capture a whole
decode step in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ingot.plans import Segment, read_plans
from ingot.plugins.attention.memory import DTYPES
from ingot.plugins.attention.step import CudaBatch
from ingot.runtime.programs.jit_cache import JitCache
from ingot.runtime.programs.logit_rows import in_chunks
from ingot.runtime.programs.plan_file import RTX_MODES, PlanFile, current_stream, shared_memory

Attention = Callable[[int, Tensor, Tensor, Tensor, CudaBatch], Tensor]  # layer, q, k, v; extends the cache too


class PlanForward:
    """forward(batch) -> logits (R, V) in float32, of an engine built for tensorrt-rtx.

    `trt` is the tensorrt_rtx module, `jit` where it keeps the kernels it compiles. `weights` holds the engine's tensors that
    plans take as inputs, on `device`. The returned logits are overwritten by the next call. Raises EngineError where the
    library does not take a plan.
    """

    def __init__(
        self, trt: Any, engine: Path, *, weights: Mapping[str, Tensor], attention: Attention, jit: JitCache, device: torch.device
    ) -> None:  # fmt: skip
        self._segments = read_plans(engine).segments
        self._attention, self._weights, self._device = attention, weights, device
        self.jit, self.max_pages = jit, None  # the cache is outside the plans: it may have any number of pages
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        stream, built_by = current_stream(device), f"TensorRT-RTX {read_plans(engine).library}"
        self._plans = {
            name: PlanFile(
                trt, self._runtime, engine / "plan" / name, RTX_MODES, built_by=built_by, stream=stream, jit=jit
            )
            for name in dict.fromkeys(segment.plan for segment in self._segments)
        }
        self._scratch = shared_memory(self._plans, device)
        self._buffers = self._allocate()
        self.max_rows, self.max_tokens = self._most("logit_rows"), self._most("token_ids")
        self._rows = torch.arange(self.max_rows, dtype=torch.int32, device=device)
        self.capturable = all(self._plans[each.plan].capturable(each.inputs, stream) for each in self._segments)

    def __call__(self, batch: CudaBatch) -> Tensor:
        values = {"token_ids": batch.token_ids, "positions": batch.positions.clamp(min=0)}  # padding stands at -1
        *body, last = self._segments
        for layer, segment in enumerate(body):
            self._run(segment, values, decode=batch.all_rows)
            values["attention"] = self._attention(layer, values["q"], values["k"], values["v"], batch)
        rows = self._rows[: len(batch.token_ids)] if batch.all_rows else batch.logit_rows

        def logits(chosen: Tensor) -> Tensor:
            values["logit_rows"] = chosen
            self._run(last, values, decode=batch.all_rows)
            return values["logits"]

        return in_chunks(logits, rows, self.max_rows)

    def _run(self, segment: Segment, values: dict[str, Tensor], *, decode: bool) -> None:
        """Runs a segment on the values and puts its outputs among them. An `x_out` becomes the next segment's x."""
        inputs = {
            name: self._weights[segment.weights[name]] if name in segment.weights else values[name]
            for name in segment.inputs
        }
        sizes = {"logits": len(values["logit_rows"])} if "logit_rows" in inputs else {}
        outputs = {}
        for name in segment.outputs:
            plain = name.removesuffix("_out")
            free = next(
                each for each in self._buffers[plain] if plain not in segment.inputs or not same(each, values[plain])
            )
            outputs[name] = free[: sizes.get(plain, len(values["token_ids"]))]
        self._plans[segment.plan].run(inputs, outputs, decode=decode, stream=current_stream(self._device))
        values |= {name.removesuffix("_out"): tensor for name, tensor in outputs.items()}

    def _allocate(self) -> dict[str, list[Tensor]]:
        """Every output at its largest, twice where a segment reads and writes the same name."""
        found: dict[str, list[Tensor]] = {}
        for segment in self._segments:
            plan = self._plans[segment.plan]
            largest = {name: plan.largest(name) for name in segment.inputs if name not in segment.weights}
            for name in segment.outputs:
                plain = name.removesuffix("_out")
                dtype, _ = DTYPES[plan.engine.get_tensor_dtype(name).name]
                shape, count = plan.output_shape(name, largest), 1 + (plain != name)
                while len(found.setdefault(plain, [])) < count:
                    found[plain].append(torch.empty(shape, dtype=dtype, device=self._device))
        return found

    def _most(self, name: str) -> int:
        """The largest a graph input's only dimension may be."""
        segment = next(each for each in self._segments if name in each.inputs)
        return self._plans[segment.plan].largest(name)[0]


def same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr()
