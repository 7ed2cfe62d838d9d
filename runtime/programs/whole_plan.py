"""The decoder as one TensorRT plan with attention inside it, as a plugin; the KV cache is bound in place.

Knows the plan's inputs and outputs by name; nothing here waits for the GPU, so a caller may capture a decode step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ingot.errors import EngineError
from ingot.plans import read_plans
from ingot.plugins.attention.step import CudaBatch
from ingot.plugins.attention.tensorrt_plugin import NAMESPACE, Launch, plugin_creator
from ingot.runtime.programs.logit_rows import in_chunks
from ingot.runtime.programs.plan_file import TENSORRT_MODES, PlanFile, current_stream, shared_memory


class WholePlan:
    """forward(batch) -> logits (R, V) in float32, of an engine built for tensorrt; extends `caches`, one per layer.

    `trt` is the tensorrt module, `launch` what the plan's plugin runs. The returned logits are overwritten by the next
    call. Raises EngineError where the library does not take the plan.
    """

    def __init__(
        self, trt: Any, engine: Path, caches: list[Tensor], *, launch: Launch, max_seqs: int, max_pages: int, device: torch.device
    ) -> None:  # fmt: skip
        self._caches, self._device = caches, device
        self.jit, self.capturable = None, True
        self._creator = plugin_creator(trt, launch, device=device.type)  # what TensorRT keeps of it is not its own
        plans = read_plans(engine)
        (segment,) = plans.segments
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        registry = trt.get_plugin_registry()
        if not registry.register_creator(self._creator, NAMESPACE):
            raise EngineError(
                "Another engine is being loaded in this process.", mend="Load TensorRT engines one after the other."
            )
        try:
            path, built_by = engine / "plan" / segment.plan, f"TensorRT {plans.library}"
            self._plan = PlanFile(
                trt, self._runtime, path, TENSORRT_MODES, built_by=built_by, stream=current_stream(device)
            )
        finally:
            registry.deregister_creator(self._creator)
        self._scratch = shared_memory({segment.plan: self._plan}, device)
        self.max_rows = self._plan.largest("logit_rows")[0]
        self.max_pages = self._plan.largest("kv_cache.0")[1]
        vocab = self._plan.engine.get_tensor_shape("logits")[1]
        self._logits = torch.empty(self.max_rows, vocab, dtype=torch.float32, device=device)
        self._every = torch.arange(max_seqs + 1, dtype=torch.int32, device=device)
        self._pages = torch.empty(max_seqs, max_pages, dtype=torch.int32, device=device)

    def __call__(self, batch: CudaBatch) -> Tensor:
        inputs = self._inputs(batch)
        rows = self._every[: len(batch.token_ids)] if batch.all_rows else batch.logit_rows

        def logits(chosen: Tensor) -> Tensor:
            """Run again for more rows, a step writes the same keys and values again."""
            out = self._logits[: len(chosen)]
            caches = {f"kv_cache_out.{layer}": cache for layer, cache in enumerate(self._caches)}
            self._plan.run(
                inputs | {"logit_rows": chosen}, {"logits": out} | caches, decode=batch.all_rows, stream=current_stream(self._device)
            )  # fmt: skip
            return out

        return in_chunks(logits, rows, self.max_rows)

    def _inputs(self, batch: CudaBatch) -> dict[str, Tensor]:
        """All but the rows. Padding stands at position -1 in row -1; its length 0 keeps the kernels from reading."""
        num_seqs = len(batch.kv_lengths)
        assert batch.rows is not None
        pages = torch.index_select(batch.page_table, 0, batch.rows.clamp(min=0), out=self._pages[:num_seqs])
        return {
            "token_ids": batch.token_ids,
            "positions": batch.positions.clamp(min=0),
            "slots": batch.slots,
            "page_table": pages,
            "query_starts": self._every[: num_seqs + 1] if batch.all_rows else batch.query_starts,
            "kv_lengths": batch.kv_lengths,
            **{f"kv_cache.{layer}": cache for layer, cache in enumerate(self._caches)},
        }
