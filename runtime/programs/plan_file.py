"""One TensorRT plan, loaded: an execution context for decode steps and one for all others. Knows names and addresses.

The same calls serve tensorrt and tensorrt_rtx, whichever module is handed in; docs/tensorrt.md says where they differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ingot.errors import EngineError
from ingot.runtime.programs.jit_cache import JitCache


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """How a context runs its plan."""

    profile: int
    specialization: str | None = None  # TensorRT-RTX: whether kernels are compiled for every new shape, and who waits


@dataclass(frozen=True, slots=True, kw_only=True)
class Modes:
    """The contexts of every plan of a target."""

    decode: Mode  # captured in graphs, bucket by bucket
    mixed: Mode

    @property
    def of(self) -> dict[bool, Mode]:
        """By whether a step is a decode step."""
        return {True: self.decode, False: self.mixed}


# TensorRT-RTX compiles kernels where it runs. A graph must hold the specialized ones, so decode waits for them; other
# steps are of ever new sizes and take fallback kernels until those are there.
RTX_MODES = Modes(decode=Mode(profile=0, specialization="EAGER"), mixed=Mode(profile=0, specialization="LAZY"))
TENSORRT_MODES = Modes(decode=Mode(profile=0), mixed=Mode(profile=1))


class PlanFile:
    """Runs one plan. Its scratch memory is the caller's (see share_memory). Raises EngineError where the library refuses."""

    def __init__(
        self, trt: Any, runtime: Any, path: Path, modes: Modes, *, built_by: str, stream: int, jit: JitCache | None = None
    ) -> None:  # fmt: skip
        self._name, self._modes, self._jit = path.name, modes, jit
        self.engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            raise EngineError(
                f"{path} does not load; it was built by {built_by}.",
                mend="Install that version, or build the engine again.",
            )
        self._contexts = {decode: self._context(trt, mode, stream) for decode, mode in modes.of.items()}

    def memory_size(self) -> int:
        """Bytes of scratch that any of its contexts needs."""
        return max(
            int(self.engine.get_device_memory_size_for_profile_v2(mode.profile)) for mode in self._modes.of.values()
        )

    def share_memory(self, block: Tensor) -> None:
        """`block` may be lent to every plan that runs on the same stream: they run in turn."""
        for context in self._contexts.values():
            context.set_device_memory(block.data_ptr(), block.nbytes)

    def largest(self, name: str, *, decode: bool = False) -> tuple[int, ...]:
        """The largest shape an input may have."""
        return tuple(self.engine.get_tensor_profile_shape(name, self._modes.of[decode].profile)[2])

    def output_shape(self, name: str, inputs: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """What output `name` is like for inputs of these shapes, in a mixed step."""
        context = self._contexts[False]
        for each, shape in inputs.items():
            context.set_input_shape(each, shape)
        return tuple(context.get_tensor_shape(name))

    def capturable(self, inputs: Iterable[str], stream: int) -> bool:
        """Whether decode steps may be captured, asked at their largest. TensorRT-RTX alone has plans that may not."""
        context = self._contexts[True]
        for name in inputs:
            context.set_input_shape(name, self.largest(name, decode=True))
        return bool(context.is_stream_capturable(stream))

    def run(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], *, decode: bool, stream: int) -> None:
        """Binds by name and starts. Nothing waits; all tensors are contiguous and stay where they are meanwhile."""
        context = self._contexts[decode]
        for name, tensor in inputs.items():
            if not context.set_input_shape(name, tuple(tensor.shape)):
                raise EngineError(
                    f"{self._name} does not take {name} of shape {tuple(tensor.shape)}; "
                    f"the largest is {self.largest(name, decode=decode)}.",
                    mend="Build the engine again with larger limits.",
                )
            context.set_tensor_address(name, tensor.data_ptr())
        for name, tensor in outputs.items():
            context.set_tensor_address(name, tensor.data_ptr())
        if not context.execute_async_v3(stream):
            raise EngineError(f"TensorRT did not run {self._name}.", mend="Its reason is in the log above.")

    def _context(self, trt: Any, mode: Mode, stream: int) -> Any:
        config = self.engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if mode.specialization is not None:
            strategy = getattr(trt.DynamicShapesKernelSpecializationStrategy, mode.specialization)
            config.dynamic_shapes_kernel_specialization_strategy = strategy
        if self._jit is not None:
            self._jit.attach(config)
        context = self.engine.create_execution_context(config)
        if not context.set_optimization_profile_async(mode.profile, stream):
            raise EngineError(
                f"{self._name} has no profile {mode.profile}.", mend="Build the engine again with this ingot."
            )
        return context


def shared_memory(plans: Mapping[str, PlanFile], device: torch.device) -> Tensor:
    """One scratch block for all plans, which the caller keeps."""
    block = torch.empty(max(1, *(plan.memory_size() for plan in plans.values())), dtype=torch.uint8, device=device)
    for plan in plans.values():
        plan.share_memory(block)
    return block


def current_stream(device: torch.device) -> int:
    return int(torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0
