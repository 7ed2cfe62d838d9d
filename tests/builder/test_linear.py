"""Linears of quantized checkpoints in canonical layout: what fits is fused, what does not is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ingot.builder.checkpoint import Checkpoint, open_checkpoint
from ingot.builder.linear import Linear, fuse, read_module, repack_int4
from ingot.errors import CheckpointError, UnsupportedModelError
from ingot.network.weights import Scheme, Weight
from ingot.plugins.quantize.reference import dequantize_int4

FP8 = torch.float8_e4m3fn


def read(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Linear:
    save_file({f"m.{suffix}": tensor for suffix, tensor in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    checkpoint: Checkpoint = open_checkpoint(tmp_path)
    return read_module(
        checkpoint, "m", lambda name: checkpoint.read(name) if name in checkpoint.tensors else None, torch.float32
    )


@pytest.mark.parametrize("shape", [(), (1,), (4,), (4, 1)])
def test_fp8_scales_become_one_per_row(tmp_path: Path, shape: tuple[int, ...]) -> None:
    linear = read(tmp_path, {"weight": torch.ones(4, 8).to(FP8), "weight_scale": torch.full(shape, 0.5)})
    assert linear.scheme is Scheme.FP8
    assert linear.weight_scale is not None
    assert linear.weight_scale.tolist() == [0.5] * 4
    assert linear.input_scale is None


def test_int4_is_repacked_along_k() -> None:
    values = torch.randint(-8, 8, (6, 256))
    theirs = ((values[0::2] & 15) | ((values[1::2] & 15) << 4)).to(torch.uint8)
    assert torch.equal(dequantize_int4(repack_int4(theirs), torch.ones(6, 2)), values.float())


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"weight": torch.ones(4, 8).to(FP8)}, "has no weight_scale"),
        ({"weight": torch.ones(4, 8).to(FP8), "weight_scale": torch.ones(3)}, "of 4 rows has scales"),
        ({"weight": torch.ones(2, 256, dtype=torch.uint8), "weight_scale": torch.ones(4, 1)}, "INT4 weight of 4 rows"),
        (
            {
                "weight": torch.ones(4, 16, dtype=torch.uint8),
                "weight_scale": torch.ones(4, 3).to(FP8),
                "weight_scale_2": torch.ones(()),
            },
            "NVFP4 weight",
        ),
        ({"bias": torch.ones(4)}, "lacks m.weight"),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path, tensors)


def test_a_dtype_of_no_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="I64"):
        read(tmp_path, {"weight": torch.ones(4, 8, dtype=torch.int64)})


def fp8(rows: int, *, input_scale: float | None = 1.0, pre_scale: float | None = None) -> Linear:
    return Weight(
        scheme=Scheme.FP8,
        data=torch.ones(rows, 8).to(FP8),
        weight_scale=torch.full((rows,), float(rows)),
        input_scale=None if input_scale is None else torch.tensor(input_scale),
        pre_scale=None if pre_scale is None else torch.full((8,), pre_scale),
    )


def test_parts_keep_their_scales_and_share_the_largest_input_scale() -> None:
    fused = fuse("qkv", [fp8(4, input_scale=0.1), fp8(2, input_scale=0.3)])
    assert fused.data.shape == (6, 8)
    assert fused.weight_scale is not None
    assert fused.weight_scale.tolist() == [4.0] * 4 + [2.0] * 2
    assert fused.input_scale == pytest.approx(0.3)


def test_a_bias_that_some_parts_lack_is_zero_there() -> None:
    plain = Weight(scheme=Scheme.NONE, data=torch.ones(2, 8), bias=torch.ones(2))
    bare = Weight(scheme=Scheme.NONE, data=torch.ones(3, 8))
    bias = fuse("qkv", [plain, bare]).bias
    assert bias is not None
    assert bias.tolist() == [1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([fp8(4), Weight(scheme=Scheme.NONE, data=torch.ones(4, 8))], "different schemes: fp8, none"),
        ([fp8(4), fp8(4, input_scale=None)], "do not take the same input"),
        ([fp8(4, pre_scale=1.0), fp8(4, pre_scale=2.0)], "different pre_quant_scale"),
    ],
)
def test_parts_that_cannot_share_an_input_are_refused(parts: list[Linear], said: str) -> None:
    with pytest.raises((CheckpointError, UnsupportedModelError), match=said):
        fuse("layers.0.qkv", parts)
