"""Number formats: exact where they must be, nearest where they round, saturating where they end."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.plugins.quantize import reference as quantize
from ingot.plugins.quantize.e4m3 import E4M3_BIAS, e4m3_bits_as_half, e4m3_to_float


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(12, 256, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 1, 12).unsqueeze(1)


def test_every_finite_e4m3_converts_exactly() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    finite = codes[(codes & 127) != 127].view(quantize.FP8)
    assert torch.equal(e4m3_to_float(finite), finite.float())
    assert torch.equal(e4m3_bits_as_half(finite.view(torch.uint8)).float() * E4M3_BIAS, finite.float())


def test_fp8_saturates_and_keeps_four_bits(weight: torch.Tensor) -> None:
    scale = quantize.row_scale(weight, quantize.FP8_MAX).unsqueeze(1)
    back = quantize.quantize_fp8(weight, scale).float() * scale
    normal = weight.abs() >= scale * 2**-6
    assert ((back - weight).abs() <= weight.abs() * 2**-4 * 1.001)[normal].all()
    beyond = quantize.quantize_fp8(torch.tensor([1e9, -1e9, 448.0]), torch.tensor(1.0))
    assert beyond.float().tolist() == [448.0, -448.0, 448.0]


def test_int8_rounds_to_nearest_and_saturates(weight: torch.Tensor) -> None:
    scale = quantize.tensor_scale(weight, quantize.INT8_MAX)
    codes = quantize.quantize_int8(weight, scale)
    assert codes.abs().max() == 127
    assert ((codes * scale - weight).abs() <= scale * 0.5001).all()
    edge = quantize.quantize_int8(torch.tensor([-500.0, 500.0, 0.5, 1.5, -2.5]), torch.tensor(1.0))
    assert edge.tolist() == [-128, 127, 0, 2, -2]


def test_zeros_have_a_scale_that_divides() -> None:
    zeros = torch.zeros(3, 128)
    assert quantize.row_scale(zeros, quantize.FP8_MAX).tolist() == [1, 1, 1]
    assert not quantize.dequantize_int4(*quantize.quantize_int4(zeros)).any()
    assert not quantize.dequantize_nvfp4(*quantize.quantize_nvfp4(zeros)).any()


@given(st.lists(st.integers(0, 15), min_size=2, max_size=40).filter(lambda codes: len(codes) % 2 == 0))
def test_nibbles_survive_packing_low_first(codes: list[int]) -> None:
    row = torch.tensor([codes])
    packed = quantize.pack_nibbles(row)
    assert torch.equal(quantize.unpack_nibbles(packed).long(), row)
    assert packed[0, 0].item() == codes[0] + 16 * codes[1]


def test_int4_is_within_half_a_step_of_its_group(weight: torch.Tensor) -> None:
    packed, scale = quantize.quantize_int4(weight)
    assert (packed.shape, packed.dtype, scale.shape) == ((12, 128), torch.uint8, (12, 2))
    error = (quantize.dequantize_int4(packed, scale) - weight).abs().view(12, 2, 128)
    assert (error <= scale.unsqueeze(-1) * 0.5001).all()


@settings(deadline=None)
@given(st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=50))
def test_e2m1_is_the_nearest_with_ties_to_the_even_code(values: list[float]) -> None:
    codes = quantize.e2m1_codes(torch.tensor([*values, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 7.0]))
    for value, code in zip([*values, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 7.0], codes.tolist(), strict=True):
        distance = [abs(abs(value) - level) for level in quantize.E2M1_VALUES]
        nearest = [level for level in range(8) if distance[level] == min(distance)]
        assert code % 8 in nearest
        assert len(nearest) == 1 or code % 2 == 0
        assert value == 0 or (code >= 8) == (value < 0)


def test_nvfp4_is_as_near_as_its_blocks_allow(weight: torch.Tensor) -> None:
    packed, block_scale, scale_2 = quantize.quantize_nvfp4(weight)
    assert (packed.shape, block_scale.shape, scale_2.shape) == ((12, 128), (12, 16), (12,))
    assert (packed.dtype, block_scale.dtype, scale_2.dtype) == (torch.uint8, quantize.FP8, torch.float32)
    step = (block_scale.float() * scale_2.unsqueeze(1)).unsqueeze(-1)
    error = (quantize.dequantize_nvfp4(packed, block_scale, scale_2) - weight).abs().view(12, 16, 16)
    # The widest gap of e2m1 is 2 steps, and rounding the block's scale may cut off 1/16 of its largest number.
    assert (error <= step * 1.0001).all()
    assert error.norm() < 0.12 * weight.norm()
