"""The plugin's contract, held by TensorRT's own classes: tensorrt_rtx's, tensorrt 11's (see tests/tensorrt_classes.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.tensorrt_classes import modules
from torch import Tensor

from ingot.errors import EngineError
from ingot.network.ops import Batch
from ingot.plugins.attention.reference import attention
from ingot.plugins.attention.tensorrt_plugin import (
    INPUTS,
    NAME,
    NAMESPACE,
    VERSION,
    Call,
    Settings,
    check_shapes,
    plugin_class,
    plugin_creator,
    read_settings,
)

SETTINGS = Settings(scale=0.25, window=6, k_scale=0.5, v_scale=2.0)
T, S, H, K, D, P, B = 5, 2, 4, 2, 16, 6, 4
SHAPES = [(T, H, D), (T, K, D), (T, K, D), (2, P, K, B, D), (T,), (S, 3), (S + 1,), (S,)]


@pytest.fixture(params=modules())
def trt(request: pytest.FixtureRequest) -> ModuleType:
    return modules()[request.param]


def launched(call: Call) -> None:
    """The reference, in place of a GPU's kernels."""
    ours = call.cache.transpose(2, 3).contiguous()  # (2, P, K, B, D) -> (2, P, B, K, D)
    scales = torch.tensor([call.settings.k_scale, call.settings.v_scale])
    batch = replace(call.batch, slots=call.batch.slots.long())
    call.out.copy_(attention(call.q, call.k, call.v, ours, batch, window=call.settings.window, kv_scale=scales))
    raw = torch.uint8 if call.cache.dtype == torch.float8_e4m3fn else call.cache.dtype
    call.cache.view(raw).copy_(ours.view(raw).transpose(2, 3))


@pytest.fixture
def creator(trt: ModuleType) -> Iterator[Any]:
    """Registered, as an engine that is being loaded finds it; bindings without their library have no registry."""
    ours, registry = plugin_creator(trt, launched, device="cpu"), trt.get_plugin_registry()
    if registry is None:
        yield ours
        return
    assert registry.register_creator(ours, NAMESPACE)
    yield registry.get_creator(NAME, VERSION, NAMESPACE)
    registry.deregister_creator(ours)


KEPT: list[Any] = []  # what plugin fields point into; they do not own it


def collection(trt: ModuleType, **given: float) -> Any:
    kinds = trt.PluginFieldType
    arrays = {name: np.array([x], np.int32 if name == "window" else np.float32) for name, x in given.items()}
    KEPT.append(arrays)
    return trt.PluginFieldCollection(
        [trt.PluginField(n, a, kinds.INT32 if a.dtype == np.int32 else kinds.FLOAT32) for n, a in arrays.items()]
    )


@pytest.fixture
def plugin(trt: ModuleType, creator: Any) -> Any:
    return creator.create_plugin("attention", collection(trt, **asdict(SETTINGS)), trt.TensorRTPhase.BUILD)


def description(trt: ModuleType, shape: tuple[int, ...], kind: str, layout: str = "LINEAR") -> Any:
    found = trt.PluginTensorDesc()
    found.dims, found.type, found.format = (
        trt.Dims(shape),
        getattr(trt.DataType, kind),
        getattr(trt.TensorFormat, layout),
    )
    return found


def combination(trt: ModuleType, kinds: list[str], layout: str = "LINEAR") -> list[Any]:
    found = []
    for kind in kinds:
        dynamic = trt.DynamicPluginTensorDesc()
        dynamic.desc = description(trt, (1,), kind, layout)
        found.append(dynamic)
    return found


def test_one_object_is_core_build_and_runtime(trt: ModuleType, plugin: Any) -> None:
    for kind in (trt.PluginCapabilityType.CORE, trt.PluginCapabilityType.BUILD, trt.PluginCapabilityType.RUNTIME):
        assert plugin.get_capability_interface(kind) is plugin
    assert isinstance(plugin, trt.IPluginV3OneBuildV2), "V2 is what can alias"
    assert (plugin.plugin_name, plugin.plugin_version, plugin.plugin_namespace) == (NAME, VERSION, NAMESPACE)
    assert plugin.num_outputs == 2


def test_a_second_creator_of_the_name_is_not_taken(trt: ModuleType, creator: Any) -> None:
    if (registry := trt.get_plugin_registry()) is not None:
        assert not registry.register_creator(plugin_creator(trt, launched), NAMESPACE)
    assert [field.name for field in creator.field_names] == ["scale", "window", "k_scale", "v_scale"]


def test_the_cache_leaves_where_it_came_in(plugin: Any) -> None:
    assert [plugin.get_aliased_input(output) for output in (0, 1)] == [-1, list(INPUTS).index("cache")]


def test_output_types(trt: ModuleType, plugin: Any) -> None:
    half, fp8, ints = trt.DataType.BF16, trt.DataType.FP8, trt.DataType.INT32
    assert plugin.get_output_data_types([half, half, half, fp8, *[ints] * 4]) == [half, fp8]


def test_output_shapes(trt: ModuleType) -> None:
    symbolic = SimpleNamespace(
        **{**vars(trt), "DimsExprs": lambda given: [None] * given if given == 2 else list(given)}
    )
    plugin = plugin_class(symbolic, launched, "cpu")(SETTINGS)  # type: ignore[arg-type]
    expressions = SimpleNamespace(operation=lambda kind, a, b: (kind, a, b))
    out, cache = plugin.get_output_shapes([letters.split() for letters in INPUTS.values()], [], expressions)
    assert out == ["T", (trt.DimensionOperation.PROD, "H", "D")]
    assert cache == ["2", "P", "K", "B", "D"]


@pytest.mark.parametrize("kind", ["HALF", "BF16", "FLOAT"])
@pytest.mark.parametrize("cache", ["own", "FP8"])
def test_types_it_takes(kind: str, cache: str, trt: ModuleType, plugin: Any) -> None:
    stored = kind if cache == "own" else cache
    tensors = combination(trt, [kind, kind, kind, stored, *["INT32"] * 4, kind, stored])
    assert all(plugin.supports_format_combination(i, tensors, 8) for i in range(10))
    other = combination(trt, [kind, kind, kind, stored, *["INT32"] * 4, kind, stored], layout="CHW2")
    assert not any(plugin.supports_format_combination(i, other, 8) for i in range(10))


@pytest.mark.parametrize(
    ("position", "kind"),
    [
        (0, "INT8"),
        (1, "BF16"),
        (2, "FP8"),
        (3, "BF16"),
        (4, "INT64"),
        (5, "HALF"),
        (7, "INT64"),
        (8, "BF16"),
        (9, "FP8"),
    ],
)
def test_types_it_does_not_take(position: int, kind: str, trt: ModuleType, plugin: Any) -> None:
    kinds = ["HALF", "HALF", "HALF", "HALF", *["INT32"] * 4, "HALF", "HALF"]
    kinds[position] = kind
    assert not plugin.supports_format_combination(position, combination(trt, kinds), 8)


def test_settings_survive_serialization_and_cloning(trt: ModuleType, creator: Any, plugin: Any) -> None:
    saved = plugin.get_fields_to_serialize()
    again = creator.create_plugin("attention", saved, trt.TensorRTPhase.RUNTIME)
    assert again is not plugin
    for other in (again, plugin.clone(), again.attach_to_context(None), plugin.clone().clone()):
        assert other.settings == SETTINGS
        assert other.num_outputs == 2


def test_tactics_and_workspace(plugin: Any) -> None:
    assert plugin.get_valid_tactics() == []
    assert plugin.get_workspace_size([], []) == 0
    plugin.set_tactic(0)
    with pytest.raises(EngineError, match="no tactic 3"):
        plugin.set_tactic(3)


def test_a_missing_field_is_named(trt: ModuleType) -> None:
    with pytest.raises(EngineError, match="lacks the field window"):
        read_settings(collection(trt, scale=0.25, k_scale=1.0, v_scale=1.0))


@pytest.mark.parametrize(
    ("position", "shape", "match"),
    [
        (1, (T + 1, K, D), r"k has shape .* where T is 5"),
        (2, (T, K), "v has 2 dimensions"),
        (3, (1, P, K, B, D), "cache has shape .* where 2 is 2"),
        (3, (2, P, B, K, D), r"cache has shape .* where K is 2"),
        (6, (S,), "query_starts has shape"),
        (7, (S + 1,), "kv_lengths has shape"),
        (0, (T, 3, D), "3 heads, no multiple"),
    ],
)
def test_wrong_shapes_are_named(
    position: int, shape: tuple[int, ...], match: str, trt: ModuleType, plugin: Any
) -> None:
    shapes: list[tuple[int, ...]] = list(SHAPES)
    plugin.on_shape_change([description(trt, each, "HALF") for each in shapes], [])
    shapes[position] = shape
    with pytest.raises(EngineError, match=match):
        plugin.on_shape_change([description(trt, each, "HALF") for each in shapes], [])
    with pytest.raises(EngineError, match=match):
        check_shapes(shapes)


def step(kind: torch.dtype, cache_kind: torch.dtype) -> list[Tensor]:
    """Two sequences of a step: three new tokens on top of four, two on top of nothing."""
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(T, heads, D, generator=generator).to(kind) for heads in (H, K, K))
    cache = torch.randn(2, P, K, B, D, generator=generator).to(cache_kind)
    ints = ([16, 17, 18, 4, 5], [[2, 4, 0], [1, 0, 0]], [0, 3, 5], [7, 2])
    return [q, k, v, cache, *(torch.tensor(each, dtype=torch.int32) for each in ints)]


@pytest.mark.parametrize(
    ("kind", "cache_kind"), [("FLOAT", "FLOAT"), ("HALF", "HALF"), ("BF16", "FP8")], ids=["f32", "f16", "bf16-fp8"]
)
def test_enqueue_works_on_the_memory_it_is_given(kind: str, cache_kind: str, trt: ModuleType, plugin: Any) -> None:
    kinds = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16, "FP8": torch.float8_e4m3fn}
    tensors = step(kinds[kind], kinds[cache_kind])
    q, k, v, cache, slots, page_table, query_starts, kv_lengths = (tensor.clone() for tensor in tensors)
    batch = Batch(
        token_ids=slots,
        positions=slots,
        slots=slots.long(),
        page_table=page_table,
        query_starts=query_starts,
        kv_lengths=kv_lengths,
        logit_rows=slots,
    )
    ours = cache.transpose(2, 3).contiguous()
    truth = attention(q, k, v, ours, batch, window=6, kv_scale=torch.tensor([0.5, 2.0]))

    out = torch.full((T, H * D), float("nan"), dtype=kinds[kind])
    types = [kind, kind, kind, cache_kind, *["INT32"] * 4]
    described = [description(trt, tuple(t.shape), n) for t, n in zip(tensors, types, strict=True)]
    results = [description(trt, (T, H * D), kind), described[3]]
    addresses = [tensor.data_ptr() for tensor in tensors]
    plugin.enqueue(described, results, addresses, [out.data_ptr(), addresses[3]], 0, 0)
    assert torch.equal(out, truth)
    assert torch.equal(tensors[3].view(torch.uint8), ours.transpose(2, 3).contiguous().view(torch.uint8))
    assert not torch.equal(tensors[3].view(torch.uint8), cache.view(torch.uint8)), "the step's keys are in the cache"

    with pytest.raises(EngineError, match="bound to different memory"):
        plugin.enqueue(described, results, addresses, [out.data_ptr(), out.data_ptr()], 0, 0)
