"""Attention's CUDA C++ kernels, thread by thread on the CPU (tests/ptx), through the launches that a GPU gets."""

from __future__ import annotations

import pytest
import torch
from tests.exactness import assert_as_exact_as_torch
from tests.plugins.test_attention_kernels import Case, make_case, run_decode, run_prefill
from tests.ptx.launch import Setting, interpreted
from torch import Tensor

from ingot.plugins.attention.launch import DecodeChoice, PrefillChoice, Rotation, Workspace, rotate_and_decode
from ingot.plugins.overlap import AHEAD
from ingot.plugins.rope.launch import rope_table

BF16, CPU = torch.bfloat16, torch.device("cpu")


@pytest.mark.parametrize(
    ("heads", "dim", "page", "splits", "window", "sub", "fp8"),
    [((7, 1), 64, 32, 3, 0, 1, False), ((8, 2), 128, 16, 2, 100, 1, True), ((4, 4), 64, 16, 1, 33, 2, True)],
)
def test_decode(heads: tuple[int, int], dim: int, page: int, splits: int, window: int, sub: int, fp8: bool) -> None:
    case = make_case(CPU, BF16, [1] * 3, [1, 17, 410], heads=heads, dim=dim, page=page, window=window, fp8=fp8)
    with interpreted(Setting()):
        found = run_decode(case, DecodeChoice(splits=splits, sub=sub, warps=4))
    assert_as_exact_as_torch(found, case.plain(), case.truth())


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("rotates", [False, True])
def test_decode_waits_for_the_newest_token_alone(fp8: bool, rotates: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its slot is what the kernel before writes; lengths, pages and all other tokens may be read before."""
    monkeypatch.setattr("ingot.plugins.attention.launch.overlap", lambda rows: AHEAD)
    lengths = [1, 16, 17, 130, 300]
    with interpreted(Setting()) as setting:
        if rotates:
            check_rotating_decode(lengths, (4, 2), norm=False, fp8=fp8, splits=2)
            return
        case = make_case(CPU, BF16, [1] * 5, lengths, heads=(8, 2), dim=128, fp8=fp8)
        setting.fresh = torch.zeros(case.paged.cache.shape, dtype=torch.bool)
        assert case.paged.rows is not None
        for row, length in zip(case.paged.rows.tolist(), lengths, strict=True):
            page = int(case.paged.page_table[row, (length - 1) // 16])
            setting.fresh[:, page, :, (length - 1) % 16] = True
        found = run_decode(case, DecodeChoice(splits=2, warps=4))
    assert_as_exact_as_torch(found, case.plain(), case.truth())


def rotated(x: Tensor, angles: Tensor, norm: Tensor | None) -> Tensor:
    """(S, heads, 128) by angles (S, 128): cosines, then sines."""
    x = x.float()
    if norm is not None:
        x = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * norm.float()
    (first, second), (cosine, sine) = x.chunk(2, -1), angles.unsqueeze(1).chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1).bfloat16()


def check_rotating_decode(lengths: list[int], heads: tuple[int, int], *, norm: bool, fp8: bool, splits: int) -> None:
    """Against plain decode of what PyTorch rotated and stored."""
    num_heads, num_kv_heads = heads
    case = make_case(CPU, BF16, [1] * len(lengths), lengths, heads=heads, dim=128, page=16, fp8=fp8)
    cache, scales, rows = case.paged.cache, case.paged.kv_scales, case.paged.rows
    assert rows is not None
    norms = (torch.rand(128).bfloat16(), torch.rand(128).bfloat16()) if norm else None
    table = rope_table(tuple(1e4 ** (-i / 64) for i in range(64)), 512, CPU)
    qkv = torch.randn(len(lengths), num_heads + 2 * num_kv_heads, 128).bfloat16()
    out, choice = torch.full((len(lengths), num_heads, 128), torch.nan).bfloat16(), DecodeChoice(splits=splits, warps=4)
    work = Workspace.allocate(len(lengths), num_heads, 128, CPU)
    rotate_and_decode(qkv.flatten(1), Rotation(table=table, norms=norms, eps=1e-5), case.paged, out, work, choice)
    written = cache.clone()

    last = torch.tensor(lengths) - 1
    q, k, v = qkv.split((num_heads, num_kv_heads, num_kv_heads), 1)
    q = rotated(q, table[last], norms and norms[0])
    pages = case.paged.page_table[rows.long(), last // 16].tolist()
    for s, (page, place) in enumerate(zip(pages, (last % 16).tolist(), strict=True)):
        for side, x in enumerate((rotated(k, table[last], norms and norms[1]), v)):
            cache[side, page, :, place] = (x[s].float() / scales[side]).to(cache.dtype)
    assert torch.allclose(written.float(), cache.float(), rtol=0.13, atol=0.01, equal_nan=True)
    expected = run_decode(Case(q, case.paged, [], [], case.counts), choice)
    assert torch.allclose(out.float(), expected.float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("norm", "fp8"), [(True, False), (False, True)])
def test_decode_that_rotates(norm: bool, fp8: bool) -> None:
    with interpreted(Setting()):
        check_rotating_decode([3, 65, 130], (4, 2), norm=norm, fp8=fp8, splits=1)


@pytest.mark.parametrize(
    ("heads", "page", "counts", "lengths", "window", "fp8", "seed"),
    [
        ((8, 2), 32, [17, 1], [17, 331], 0, False, None),
        ((6, 2), 128, [50], [300], 50, True, None),
        ((1, 1), 16, [140], [150], 0, False, 1),
        ((8, 1), 16, [20], [290], 0, True, 2),
    ],
)
def test_prefill(
    heads: tuple[int, int], page: int, counts: list[int], lengths: list[int], window: int, fp8: bool, seed: int | None
) -> None:
    """More tiles than blocks, and some that nothing is left for."""
    case = make_case(CPU, BF16, counts, lengths, heads=heads, dim=128, page=page, window=window, fp8=fp8)
    with interpreted(Setting(seed=seed)):
        found = run_prefill(case, spare=3, choice=PrefillChoice(cuda=True))
    assert_as_exact_as_torch(found, case.plain(), case.truth())
