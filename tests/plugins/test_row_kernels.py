"""Kernels of one row a program: norms, activations, rotation, rounding, greedy sampling.

What rounds to e4m3 is tested on a GPU alone: Triton's interpreter loses the carry from mantissa to exponent (126.5 -> 64).
"""

from __future__ import annotations

import pytest
import torch
from tests.exactness import assert_as_exact_as_torch
from torch import Tensor

from ingot.network.weights import Scheme, Weight
from ingot.plugins.quantize.launch import Quantized, quantize_rows
from ingot.plugins.quantize.reference import row_scale
from ingot.plugins.rms_norm.launch import rms_norm
from ingot.plugins.rms_norm.reference import add_rms_norm as plain_add_rms_norm
from ingot.plugins.rope.launch import rope_and_write, rope_table
from ingot.plugins.rope.reference import cos_sin, split_and_rotate
from ingot.plugins.sampling.launch import greedy
from ingot.plugins.silu_mul.launch import silu_mul
from ingot.plugins.silu_mul.reference import silu_mul as plain_silu_mul

ROUNDED = {Scheme.FP8: torch.float8_e4m3fn, Scheme.INT8: torch.int8}
LARGEST = {Scheme.FP8: 448.0, Scheme.INT8: 127.0}
EPS = 1e-5


def reader(
    scheme: Scheme, width: int, device: torch.device, *, static: bool = False, pre: bool = False
) -> Weight[Tensor]:
    return Weight(
        scheme=scheme, data=torch.empty(0, device=device), input_scale=torch.full((1,), 0.02, device=device) if static else None,
        pre_scale=torch.rand(width, device=device) + 0.5 if pre else None,
    )  # fmt: skip


def rounded(x: Tensor, weight: Weight[Tensor]) -> Tensor:
    """What float32 x becomes for `weight`, dequantized, by PyTorch."""
    if weight.pre_scale is not None:
        x = x * weight.pre_scale
    if weight.scheme is Scheme.NONE:
        return x
    largest = LARGEST[weight.scheme]
    scale = row_scale(x, largest).unsqueeze(1) if weight.input_scale is None else weight.input_scale
    codes = (x / scale).clamp(-128 if weight.scheme is Scheme.INT8 else -largest, largest)
    codes = codes.round() if weight.scheme is Scheme.INT8 else codes
    return codes.to(ROUNDED[weight.scheme]).float() * scale


def dequantized(x: Tensor | Quantized) -> Tensor:
    return x.values.float() * x.scales.unsqueeze(1) if isinstance(x, Quantized) else x


def on_both(cases: list[tuple[object, ...]]) -> list[object]:
    """Every case on the GPU; on the CPU, in the interpreter, those that do not round to e4m3."""
    gpu = [pytest.param("cuda", *case, marks=pytest.mark.gpu) for case in cases]
    return gpu + [pytest.param("cpu", *case) for case in cases if not {Scheme.FP8, "fp8"} & set(case)]


SCHEMES = on_both(
    [(Scheme.NONE, False, False), (Scheme.FP8, False, False), (Scheme.FP8, True, False), (Scheme.INT8, False, True)]
)


@pytest.mark.parametrize(("device", "scheme", "static", "pre"), SCHEMES, indirect=["device"])
@pytest.mark.parametrize("add", [False, True])
def test_add_rms_norm(
    device: torch.device, dtype: torch.dtype, scheme: Scheme, static: bool, pre: bool, add: bool
) -> None:
    x, residual = (torch.randn(5, 200, device=device).to(dtype) for _ in range(2))
    weight, to = torch.randn(200, device=device).to(dtype), reader(scheme, 200, device, static=static, pre=pre)
    plain, total = plain_add_rms_norm(x, residual if add else torch.zeros_like(x), weight, EPS)
    exact, _ = plain_add_rms_norm(total.float(), torch.zeros(5, 200, device=device), weight.float(), EPS)
    stream = residual.clone() if add else None
    out = dequantized(rms_norm(x, stream, weight, EPS, to))
    exact = exact * (1 if to.pre_scale is None else to.pre_scale)
    plain_out = plain if scheme is Scheme.NONE else rounded(plain.float(), to).to(torch.float32)
    assert_as_exact_as_torch(out, plain_out, exact)
    if stream is not None:
        assert torch.equal(stream, total)


@pytest.mark.parametrize(("device", "scheme", "static", "pre"), SCHEMES, indirect=["device"])
def test_silu_mul(device: torch.device, dtype: torch.dtype, scheme: Scheme, static: bool, pre: bool) -> None:
    x, to = torch.randn(5, 2 * 150, device=device).to(dtype), reader(scheme, 150, device, static=static, pre=pre)
    exact = plain_silu_mul(x.float()) * (1 if to.pre_scale is None else to.pre_scale)
    plain = plain_silu_mul(x) if scheme is Scheme.NONE else rounded(plain_silu_mul(x).float(), to)
    assert_as_exact_as_torch(dequantized(silu_mul(x, to)), plain, exact)


@pytest.mark.parametrize(("device", "scheme"), on_both([(Scheme.FP8,), (Scheme.INT8,)]), indirect=["device"])
def test_rounding_is_the_references(device: torch.device, dtype: torch.dtype, scheme: Scheme) -> None:
    """Scales to the bit, values but for ties: the kernel multiplies by the reciprocal."""
    x = torch.randn(6, 300, device=device).to(dtype)
    x[2] = 0
    x[3] *= 1e-3
    out = quantize_rows(x, reader(scheme, 300, device))
    assert isinstance(out, Quantized)
    # On the CPU: a GPU divides by a constant through its reciprocal, one rounding away.
    on_cpu, to = x.float().cpu(), reader(scheme, 300, torch.device("cpu"))
    assert torch.equal(out.scales.cpu(), row_scale(on_cpu, LARGEST[scheme]))
    assert (dequantized(out).cpu() == rounded(on_cpu, to)).float().mean() > 0.99
    assert_as_exact_as_torch(dequantized(out).cpu(), rounded(on_cpu, to), on_cpu)


@pytest.mark.parametrize(
    ("device", "dim", "qk_norm", "kv"),
    on_both([(64, False, "auto"), (96, True, "auto"), (128, True, "fp8")]),
    indirect=["device"],
)
def test_rope_writes_keys_and_values(
    device: torch.device, dtype: torch.dtype, dim: int, qk_norm: bool, kv: str
) -> None:
    fp8 = kv == "fp8"
    num_heads, num_kv_heads, page, tokens = 10, 2, 16, 7
    frequencies = tuple(10_000 ** (-2 * i / dim) for i in range(dim // 2))
    qkv = torch.randn(tokens, (num_heads + 2 * num_kv_heads) * dim, device=device).to(dtype)
    positions = torch.randint(0, 500, (tokens,), dtype=torch.int32, device=device)
    slots = torch.randperm(5 * page, device=device)[:tokens].int()
    slots[3] = -1
    cache = torch.full((2, 5, num_kv_heads, page, dim), 7.0, device=device).to(torch.float8_e4m3fn if fp8 else dtype)
    norms = (torch.rand(dim, device=device).to(dtype), torch.rand(dim, device=device).to(dtype)) if qk_norm else None
    scales = (0.5, 2.0) if fp8 else (1.0, 1.0)
    table = rope_table(frequencies, 500, device)
    q = rope_and_write(qkv, positions, slots, table, cache, num_heads=num_heads, norms=norms, eps=EPS, kv_scales=scales)

    def split(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights = (norms[0].to(x.dtype), norms[1].to(x.dtype)) if norms else None
        cos, sin = cos_sin(positions, frequencies, x.dtype)
        return split_and_rotate(x, cos, sin, num_heads=num_heads, num_kv_heads=num_kv_heads, norms=weights, eps=EPS)

    plain, exact = split(qkv), split(qkv.float())
    assert_as_exact_as_torch(q, plain[0], exact[0])
    written = slots >= 0
    at = slots[written].long()
    for side in (0, 1):
        stored = cache[side].float().transpose(1, 2).flatten(0, 1)
        expected = plain[side + 1][written].float()
        if fp8:
            expected = (expected / scales[side]).to(torch.float8_e4m3fn).float() * scales[side]
        assert_as_exact_as_torch(stored[at] * scales[side], expected, exact[side + 1][written])
        untouched = torch.ones(5 * page, dtype=torch.bool, device=device)
        untouched[at] = False
        assert (stored[untouched] == 7).all()


def test_greedy_takes_the_lowest_of_the_best(device: torch.device) -> None:
    logits = torch.randn(4, 20_000, device=device)
    logits[1, [17, 9000, 19_999]] = 99.0
    logits[2, 19_999] = 99.0
    tokens = torch.full((4,), -7, dtype=torch.int32, device=device)
    last = torch.full((8,), -7, dtype=torch.int32, device=device)
    rows = torch.tensor([5, 0, -1, 2], dtype=torch.int32, device=device)
    greedy(logits, tokens, rows, last)
    assert tokens.tolist() == [logits[0].argmax().item(), 17, 19_999, logits[3].argmax().item()]
    assert last.tolist() == [17, -7, tokens[3].item(), -7, -7, tokens[0].item(), -7, -7]
