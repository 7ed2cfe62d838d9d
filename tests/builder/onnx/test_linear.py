"""One linear layer, executed: the same numbers as the reference, to float32's last bits."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from safetensors.torch import save_file
from tests.builder.onnx.evaluate import evaluator, fp4_blocks
from tests.builder.onnx.random_engine import quantized
from torch import Tensor

from ingot.builder.onnx.graph import GraphWriter
from ingot.builder.onnx.linear import linear as emit
from ingot.builder.onnx.linear import power_of_two
from ingot.builder.onnx.weights import EngineWeights
from ingot.network.weights import Scheme, Weight
from ingot.plugins.linear.reference import dequantize, linear
from ingot.plugins.quantize.reference import e2m1_values

T, K, N = 5, 256, 48


def inputs() -> Tensor:
    x = torch.randn(T, K, generator=torch.Generator().manual_seed(3)) * torch.tensor(
        [[1.0], [30.0], [1e-3], [1.0], [0.0]]
    )
    x[0, 0] = 40.0  # saturates a static scale
    return x


def random_weight(scheme: Scheme, parts: tuple[str, ...], top: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    spread = torch.logspace(-3, 0, N).unsqueeze(1) * top  # rows a thousandfold apart
    found = quantized("w", torch.randn(N, K, generator=generator) * spread, scheme, torch.float32)
    extra = {
        "input_scale": torch.tensor(0.03),
        "pre_scale": 0.5 + torch.rand(K, generator=generator),
        "bias": torch.randn(N, generator=generator),
    }
    return found | {f"w.{part}": extra[part] for part in parts}


def as_weight(tensors: dict[str, Tensor], scheme: Scheme) -> Weight[Tensor]:
    parts = {name.removeprefix("w."): tensor for name, tensor in tensors.items()}
    return Weight(scheme=scheme, data=parts.pop("weight"), **parts)


def executed(tensors: dict[str, Tensor], folder: Path, *, fp4_inputs: bool = False) -> Tensor:
    save_file(tensors, folder / "w.safetensors")
    graph = GraphWriter(ir.DataType.FLOAT)
    x = graph.input("x", ir.DataType.FLOAT, ["tokens", K])
    y = emit(graph, EngineWeights([folder / "w.safetensors"]), "w", x, fp4_inputs=fp4_inputs)
    graph.outputs.append(graph.typed(y, "y", ["tokens", N]))
    return torch.from_numpy(evaluator(graph.model("linear"), folder).run(None, {"x": inputs().numpy()})[0])


def difference(a: Tensor, b: Tensor) -> float:
    """Largest, each row against its own scale."""
    return float(((a - b).abs() / b.abs().amax(1, keepdim=True).clamp_min(1e-30)).max())


@pytest.mark.parametrize("parts", [(), ("bias",), ("input_scale", "pre_scale", "bias")], ids=",".join)
@pytest.mark.parametrize("scheme", list(Scheme))
def test_equals_the_reference(scheme: Scheme, parts: tuple[str, ...], tmp_path: Path) -> None:
    tensors = random_weight(scheme, parts)
    assert difference(executed(tensors, tmp_path), linear(inputs(), as_weight(tensors, scheme))) < 2e-6


@pytest.mark.parametrize("parts", [("bias",), ("input_scale", "bias")], ids=["per-token", "static"])
def test_nvfp4_rounds_its_inputs_where_the_hardware_does(parts: tuple[str, ...], tmp_path: Path) -> None:
    tensors = random_weight(Scheme.NVFP4, parts)
    weight = as_weight(tensors, Scheme.NVFP4)
    x, second = inputs(), torch.tensor(0.03)
    tokens = torch.ones(T, 1)
    if "input_scale" not in parts:
        tokens, second = x.abs().amax(1, keepdim=True).clamp_min(1e-12), torch.tensor(1 / (6 * 448))
    codes, blocks = fp4_blocks(x / tokens, second)
    rounded = e2m1_values(codes).unflatten(-1, (-1, 16)) * (blocks.float() * second).unsqueeze(-1)
    truth = tokens * rounded.flatten(-2) @ dequantize(weight).T + tensors["w.bias"]
    assert difference(executed(tensors, tmp_path, fp4_inputs=True), truth) < 2e-6


@pytest.mark.parametrize("scheme", [Scheme.FP8, Scheme.INT8])
def test_the_scale_inside_a_pair_is_exact_in_half_precision(scheme: Scheme, tmp_path: Path) -> None:
    tensors = random_weight(scheme, (), top=1e-3)  # whose scales fp16 would round, or lose
    save_file(tensors, tmp_path / "w.safetensors")
    graph = GraphWriter(ir.DataType.FLOAT16)
    emit(
        graph,
        EngineWeights([tmp_path / "w.safetensors"]),
        "w",
        graph.input("x", ir.DataType.FLOAT16, ["t", K]),
        fp4_inputs=False,
    )
    constants = [value.const_value for value in graph.initializers.values() if value.const_value is not None]
    scales = [float(each.numpy()) for each in constants if each.dtype is ir.DataType.FLOAT16]
    assert scales == [power_of_two(tensors["w.weight_scale"].max().item()), 2.0**-8]
    assert graph.initializers["w.rescale"].dtype is ir.DataType.FLOAT


def test_power_of_two() -> None:
    assert [power_of_two(x) for x in (1.0, 1.01, 0.3, 0.0)] == [1.0, 2.0, 0.5, 2.0**-24]
