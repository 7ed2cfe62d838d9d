"""PagedAttention as a TensorRT plugin: an IPluginV3 whose KV cache is one buffer, its input and its output.

Knows TensorRT's plugin interface (the same in tensorrt and tensorrt_rtx, whichever is handed in) and where tensors lie in
memory. Which kernels run is a function handed in: `Launch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from ingot.errors import EngineError
from ingot.network.ops import Batch
from ingot.plugins.attention.memory import tensor_at

NAME, VERSION, NAMESPACE = "PagedAttention", "1", "ingot"
MANIFEST_NAME = "ingot_paged_attention"  # under which an engine's manifest names VERSION
# In the order of the ONNX node. T tokens, S sequences, H query heads, K key/value heads, D head dim, P pages of B slots.
INPUTS = {
    "q": "T H D",
    "k": "T K D",
    "v": "T K D",
    "cache": "2 P K B D",
    "slots": "T",
    "page_table": "S pages",
    "query_starts": "S+1",
    "kv_lengths": "S",
}
CACHE, METADATA = 3, 4  # positions: the cache, and the first of the int32 inputs
OUTPUTS = 2  # attention (T, H * D), and the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The node's attributes, and what an engine keeps of the plugin."""

    scale: float  # of the scores
    window: int  # 0: full attention
    k_scale: float  # an FP8 cache holds value / scale
    v_scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One execution: tensors over TensorRT's own memory. `cache` is to be extended, `out` filled, on `stream`."""

    q: Tensor
    k: Tensor
    v: Tensor
    cache: Tensor  # (2, P, K, B, D)
    batch: Batch[Tensor]  # of which attention reads slots, page_table, query_starts and kv_lengths
    out: Tensor  # (T, H * D)
    settings: Settings
    stream: int  # cudaStream_t


Launch = Callable[[Call], None]


def check_shapes(shapes: Sequence[Sequence[int]]) -> None:
    """Raises EngineError naming the first input whose shape contradicts the ones before."""
    sizes: dict[str, int] = {"2": 2}
    for (name, letters), shape in zip(INPUTS.items(), shapes, strict=True):
        wanted = letters.split()
        if len(shape) != len(wanted):
            raise wrong(f"{name} has {len(shape)} dimensions {tuple(shape)}", letters)
        for letter, size in zip(wanted, shape, strict=True):
            if letter == "S+1":
                letter, size = "S", size - 1
            if sizes.setdefault(letter, size) != size:
                raise wrong(f"{name} has shape {tuple(shape)} where {letter} is {sizes[letter]}", letters)
    if sizes["H"] % sizes["K"]:
        raise wrong(f"q has {sizes['H']} heads, no multiple of the cache's {sizes['K']}", INPUTS["q"])


def wrong(what: str, letters: str) -> EngineError:
    return EngineError(f"{NAME}: {what}; it wants ({letters}).", mend="Build the engine again with this ingot.")


def read_settings(given: Iterable[Any]) -> Settings:
    """From plugin fields, of an ONNX node or of an engine. Raises EngineError where one is missing."""
    found = {field.name: field.data for field in given}
    values: dict[str, Any] = {}
    for field in fields(Settings):
        data = np.asarray(found.get(field.name, ())).reshape(-1)
        if data.size != 1:
            raise EngineError(f"{NAME} lacks the field {field.name}.", mend="Build the engine again with this ingot.")
        values[field.name] = int(data[0]) if field.name == "window" else float(data[0])
    return Settings(**values)


def plugin_class(trt: ModuleType, launch: Launch, device: str) -> type[Any]:
    """The plugin over one library's base classes. `device`: where its pointers point, as torch names it."""
    floats = (trt.DataType.HALF, trt.DataType.BF16, trt.DataType.FLOAT)

    bases: Any = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuildV2, trt.IPluginV3OneRuntime)

    class PagedAttention(*bases):  # type: ignore[misc]
        def __init__(self, settings: Settings) -> None:
            for base in bases:
                base.__init__(self)
            self.settings = settings
            self.num_outputs = OUTPUTS
            self.plugin_name, self.plugin_version, self.plugin_namespace = NAME, VERSION, NAMESPACE
            self.timing_cache_id = ""
            self._serialized: list[Any] = []  # arrays whose memory plugin fields point into

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def clone(self) -> Any:
            return PagedAttention(self.settings)

        def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
            return [input_types[0], input_types[CACHE]]

        def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Sequence[Any], expressions: Any) -> list[Any]:
            out = trt.DimsExprs(2)
            out[0] = inputs[0][0]
            out[1] = expressions.operation(trt.DimensionOperation.PROD, inputs[0][1], inputs[0][2])
            return [out, trt.DimsExprs(inputs[CACHE])]

        def get_aliased_input(self, output: int) -> int:
            return CACHE if output == 1 else -1

        def supports_format_combination(self, position: int, tensors: Sequence[Any], num_inputs: int) -> bool:
            own = tensors[position].desc
            if own.format != trt.TensorFormat.LINEAR:
                return False
            if position == 0:
                return own.type in floats
            if position == CACHE:
                return own.type in (tensors[0].desc.type, trt.DataType.FP8)
            if METADATA <= position < num_inputs:
                return bool(own.type == trt.DataType.INT32)
            same = CACHE if position == num_inputs + 1 else 0
            return bool(own.type == tensors[same].desc.type)

        def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            check_shapes([tuple(tensor.max) for tensor in inputs])

        def get_workspace_size(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
            return 0

        def get_valid_tactics(self) -> list[int]:
            return []

        def set_tactic(self, tactic: int) -> None:
            if tactic:
                raise EngineError(f"{NAME} has no tactic {tactic}.", mend="Build the engine again with this ingot.")

        def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
            check_shapes([tuple(tensor.dims) for tensor in inputs])

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def get_fields_to_serialize(self) -> Any:
            self._serialized = [
                np.array([value], np.int32 if name == "window" else np.float32)
                for name, value in asdict(self.settings).items()
            ]
            kinds = trt.PluginFieldType
            return trt.PluginFieldCollection(
                [
                    trt.PluginField(field.name, array, kinds.INT32 if field.name == "window" else kinds.FLOAT32)
                    for field, array in zip(fields(Settings), self._serialized, strict=True)
                ]
            )

        def enqueue(
            self,
            inputs: Sequence[Any],
            outputs: Sequence[Any],
            pointers: Sequence[int],
            out_pointers: Sequence[int],
            workspace: int,
            stream: int,
        ) -> None:
            if out_pointers[1] != pointers[CACHE]:
                raise EngineError(
                    f"{NAME} extends its cache in place, but the cache's input and output are bound to different memory.",
                    mend="Bind kv_cache_out.N to the address of kv_cache.N.",
                )
            places = [*zip(inputs, pointers, strict=True), (outputs[0], out_pointers[0])]
            tensors = [tensor_at(at, tuple(each.dims), each.type.name, device) for each, at in places]
            launch(call(tensors, self.settings, stream))

    return PagedAttention


def call(tensors: Sequence[Tensor], settings: Settings, stream: int) -> Call:
    q, k, v, cache, slots, page_table, query_starts, kv_lengths, out = tensors
    batch = Batch(
        token_ids=slots,  # not read by attention, as positions and logit_rows are not
        positions=slots,
        logit_rows=slots,
        slots=slots,
        page_table=page_table,
        query_starts=query_starts,
        kv_lengths=kv_lengths,
    )
    return Call(q=q, k=k, v=v, cache=cache, batch=batch, out=out, settings=settings, stream=stream)


def plugin_creator(trt: ModuleType, launch: Launch, *, device: str = "cuda") -> Any:
    """An IPluginCreatorV3One for a library's registry; what it creates launches `launch`.

    The registry does not own a creator made in Python: keep it for as long as engines are built or loaded.
    """
    plugin = plugin_class(trt, launch, device)

    base: Any = trt.IPluginCreatorV3One

    class PagedAttentionCreator(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = NAME, VERSION, NAMESPACE
            kinds = trt.PluginFieldType
            self.field_names = trt.PluginFieldCollection(
                [
                    trt.PluginField(field.name, np.array([]), kinds.INT32 if field.name == "window" else kinds.FLOAT32)
                    for field in fields(Settings)
                ]
            )

        def create_plugin(self, name: str, given: Any, phase: Any) -> Any:
            return plugin(read_settings(given))

    return PagedAttentionCreator()
