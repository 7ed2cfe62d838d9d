"""The decoder as TensorRT-RTX plans: a segment, attention, the next segment, all on one stream, into buffers of its own.

Knows plans and addresses; what attention is, it is handed. Nothing here waits for the GPU or allocates after loading, so a
caller may capture a whole call in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ingot.errors import EngineError
from ingot.network.ops import Batch
from ingot.plans import Plans, Segment, read_plans
from ingot.plugins.attention.memory import DTYPES

Attention = Callable[[int, Tensor, Tensor, Tensor, Batch[Tensor]], Tensor]  # as Ops.attention: extends the cache too
GRAPH_INPUTS = ("token_ids", "positions", "logit_rows")


def check_gpu(plans: Plans, sm: int, name: str) -> None:
    """Raises EngineError where the plans are for other GPUs. `sm` is the GPU's compute capability, 89 for 8.9."""
    if sm not in plans.sm:
        built = ", ".join(str(each / 10) for each in plans.sm)
        raise EngineError(
            f"{name} is SM {sm / 10}; this engine's TensorRT-RTX plans are for SM {built}.",
            mend="Build for this GPU: --target cuda, or --target tensorrt-rtx with its --sm where TensorRT-RTX knows it.",
        )


class PlanForward:
    """forward(batch) -> logits (R, V) in float32, of an engine built for tensorrt-rtx.

    `trt` is the tensorrt_rtx module. `weights` holds the engine's tensors that plans take as inputs, on `device`. The
    returned logits are overwritten by the next call. Raises EngineError where the library does not take a plan.
    """

    def __init__(
        self, trt: Any, engine: Path, *, weights: Mapping[str, Tensor], attention: Attention, device: torch.device
    ) -> None:
        self._plans = read_plans(engine)
        self._attention = attention
        self._weights = weights
        self._device = device
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._runtime = trt.Runtime(self._logger)
        self._engines = {plan.plan: self._load(engine / "plan" / plan.plan) for plan in self._plans.plans}
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._contexts = {name: each.create_execution_context(strategy) for name, each in self._engines.items()}
        self._scratch = self._share_memory()
        self._buffers = self._allocate()
        self.max_rows = self._most("logit_rows")
        self.max_tokens = self._most("token_ids")

    def __call__(self, batch: Batch[Tensor]) -> Tensor:
        values = {name: getattr(batch, name).to(torch.int32) for name in GRAPH_INPUTS}
        *body, last = self._plans.segments
        for layer, segment in enumerate(body):
            self._run(segment, values)
            values["attention"] = self._attention(layer, values["q"], values["k"], values["v"], batch).contiguous()
        rows = values["logit_rows"]
        found = []
        for start in range(0, len(rows), self.max_rows):
            values["logit_rows"] = rows[start : start + self.max_rows]
            self._run(last, values)
            found.append(values["logits"].clone() if len(rows) > self.max_rows else values["logits"])
        if not found:
            return self._buffers["logits"][0][:0]
        return found[0] if len(found) == 1 else torch.cat(found)

    def _run(self, segment: Segment, values: dict[str, Tensor]) -> None:
        """Binds by name, executes, and puts the outputs among the values. An `x_out` becomes the next segment's x."""
        context = self._contexts[segment.plan]
        for name in segment.inputs:
            tensor = self._weights[segment.weights[name]] if name in segment.weights else values[name]
            if name not in segment.weights:
                context.set_input_shape(name, tuple(tensor.shape))
            context.set_tensor_address(name, tensor.data_ptr())
        outputs = {}
        for name in segment.outputs:
            plain = name.removesuffix("_out")
            shape = tuple(context.get_tensor_shape(name))
            free = next(
                each for each in self._buffers[plain] if plain not in segment.inputs or not same(each, values[plain])
            )
            outputs[plain] = free[: shape[0]]
            context.set_tensor_address(name, free.data_ptr())
        stream = torch.cuda.current_stream(self._device).cuda_stream if self._device.type == "cuda" else 0
        if not context.execute_async_v3(stream):
            raise EngineError(f"TensorRT-RTX did not run {segment.plan}.", mend="Its reason is in the log above.")
        values |= outputs

    def _load(self, path: Path) -> Any:
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise EngineError(
                f"TensorRT-RTX does not load {path}; it was built by version {self._plans.library}.",
                mend="Install that version of tensorrt_rtx, or build the engine again.",
            )
        return engine

    def _share_memory(self) -> Tensor:
        """One scratch block for all contexts: they run in turn."""
        size = max(int(engine.device_memory_size_v2) for engine in self._engines.values())
        block = torch.empty(max(size, 1), dtype=torch.uint8, device=self._device)
        for context in self._contexts.values():
            context.set_device_memory(block.data_ptr(), size)
        return block

    def _allocate(self) -> dict[str, list[Tensor]]:
        """Every output at its largest, twice where a segment reads and writes the same name."""
        found: dict[str, list[Tensor]] = {}
        for segment in self._plans.segments:
            engine, context = self._engines[segment.plan], self._contexts[segment.plan]
            for name in segment.inputs:
                if name not in segment.weights:
                    context.set_input_shape(name, tuple(engine.get_tensor_profile_shape(name, 0)[2]))
            for name in segment.outputs:
                plain = name.removesuffix("_out")
                dtype, _ = DTYPES[engine.get_tensor_dtype(name).name]
                count = 1 + (plain != name)
                while len(found.setdefault(plain, [])) < count:
                    found[plain].append(
                        torch.empty(tuple(context.get_tensor_shape(name)), dtype=dtype, device=self._device)
                    )
        return found

    def _most(self, name: str) -> int:
        """The largest a graph input's only dimension may be."""
        segment = next(each for each in self._plans.segments if name in each.inputs)
        return int(self._engines[segment.plan].get_tensor_profile_shape(name, 0)[2][0])


def same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr()
