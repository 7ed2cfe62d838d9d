"""Attention's CUDA C++ kernels, thread by thread on the CPU (tests/ptx), through the launches that a GPU gets."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.exactness import assert_as_exact_as_torch
from tests.plugins.test_attention_kernels import Case, make_case, run_decode, run_prefill
from tests.plugins.test_linear_kernels import make_weight
from tests.plugins.test_tune import CONFIG
from tests.ptx.launch import Setting, interpreted
from torch import Tensor

from ingot.network.weights import Scheme
from ingot.plugins.attention.cases import RotationCase
from ingot.plugins.attention.launch import DecodeChoice, Rotation, Workspace, rotate_and_decode
from ingot.plugins.attention.prefill import PrefillChoice, Tiles
from ingot.plugins.attention.step import CudaBatch
from ingot.plugins.cuda_ops import CudaOps, Unrotated
from ingot.plugins.linear.launch import Choices
from ingot.plugins.overlap import AHEAD
from ingot.plugins.quantize.launch import Quantized, floats
from ingot.plugins.random_weights import random_weights
from ingot.plugins.rope.launch import rope_table
from ingot.plugins.variants import Variants
from ingot.runtime.programs.mixed_graphs import PAST

BF16, CPU = torch.bfloat16, torch.device("cpu")


@pytest.mark.parametrize(
    ("heads", "dim", "page", "splits", "window", "sub", "fp8"),
    [((7, 1), 64, 32, 3, 0, 1, False), ((8, 2), 128, 16, 2, 100, 1, True), ((4, 4), 64, 16, 1, 33, 2, True)],
)
def test_decode(heads: tuple[int, int], dim: int, page: int, splits: int, window: int, sub: int, fp8: bool) -> None:
    case = make_case(CPU, BF16, [1] * 3, [1, 17, 410], heads=heads, dim=dim, page=page, window=window, fp8=fp8)
    with interpreted(Setting()):
        found = run_decode(case, DecodeChoice(splits=splits, sub=sub, warps=4 * sub, alone=64))
    assert_as_exact_as_torch(found, case.plain(), case.truth())


@pytest.mark.parametrize(
    ("dim", "splits", "heads", "fp8"), [(128, 2, (8, 2), True), (128, 1, (3, 3), False), (64, 3, (7, 1), False)]
)
def test_decode_that_rounds(dim: int, splits: int, heads: tuple[int, int], fp8: bool) -> None:
    case = make_case(CPU, BF16, [1] * 3, [1, 17, 300], heads=heads, dim=dim, fp8=fp8)
    with interpreted(Setting()):
        run_decode(case, DecodeChoice(splits=splits, warps=4, alone=64), rounds=True)


@pytest.mark.parametrize(("heads", "fp8"), [((8, 2), True), ((3, 1), False)])
def test_prefill_that_rounds(heads: tuple[int, int], fp8: bool) -> None:
    case = make_case(CPU, BF16, [50, 1], [60, 200], heads=heads, dim=128, page=32, fp8=fp8)
    with interpreted(Setting()):
        run_prefill(case, spare=2, choice=PrefillChoice(cuda=True), rounds=True)


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
        found = run_decode(case, DecodeChoice(splits=2, warps=4, alone=0))
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
    out = torch.full((len(lengths), num_heads, 128), torch.nan).bfloat16()
    choice = DecodeChoice(splits=splits, warps=4, alone=0)
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


@pytest.mark.parametrize(
    ("heads", "page", "counts", "lengths", "window", "fp8", "norm", "seed"),
    [
        ((8, 2), 32, [17, 1], [17, 331], 0, False, True, None),
        ((3, 1), 128, [50], [300], 50, True, True, None),
        ((8, 1), 16, [20], [150], 0, True, False, 2),
    ],
)
def test_prefill_that_rotates(
    heads: tuple[int, int], page: int, counts: list[int], lengths: list[int], window: int, fp8: bool, norm: bool, seed: int | None
) -> None:  # fmt: skip
    with interpreted(Setting(seed=seed)):
        check_rotating_prefill(heads, page, counts, lengths, window=window, fp8=fp8, norm=norm)


def check_rotating_prefill(
    heads: tuple[int, int], page: int, counts: list[int], lengths: list[int], *, window: int, fp8: bool, norm: bool
) -> None:
    """As exact as rotation by a kernel of its own, and the same keys and values."""
    config = replace(CONFIG, num_heads=heads[0], num_kv_heads=heads[1], head_dim=128, qk_norm=norm)
    kv_dtype = torch.float8_e4m3fn if fp8 else BF16
    case = RotationCase(config, BF16, kv_dtype, page, lengths, "cpu", counts=counts, window=window)
    usual, found = case.check(False), case.check(True)
    assert_as_exact_as_torch(found, usual, case.truth())
    assert torch.equal(found[case.past.q.numel() :], usual[case.past.q.numel() :])


@pytest.mark.parametrize(
    ("captured", "fp8", "norm", "rounds"),
    [(False, True, False, True), (True, False, True, False), (True, False, False, True)],
)
def test_a_step_whose_prompts_rotate_themselves(captured: bool, fp8: bool, norm: bool, rounds: bool) -> None:
    """Two sequences decode beside two prompts; a captured step has room for more, where the first prompt's rows then lie. `rounds`: the
    linear that comes next reads e4m3 by one scale."""
    config = replace(CONFIG, num_heads=4, num_kv_heads=1, head_dim=128, qk_norm=norm)
    device, kv_dtype = torch.device("cpu"), torch.float8_e4m3fn if fp8 else BF16
    weights = random_weights(config, Scheme.NONE, BF16, device)
    if rounds:
        weights["layers.0.o"] = replace(
            make_weight(Scheme.FP8, 512, 512, BF16, CPU, bias=False), input_scale=torch.tensor(0.01)
        )
    counts, lengths = [1, 1, 5, 20], [9, 70, 25, 20]
    tokens = 32 if captured else sum(counts)
    spare = tokens - sum(counts)
    positions = [range(length - count, length) for count, length in zip(counts, lengths, strict=True)]
    table = torch.randperm(4 * 5).int().view(4, 5)
    slots = [int(table[s, at // 16]) * 16 + at % 16 for s, part in enumerate(positions) for at in part]
    qkv = torch.randn(tokens, 6 * 128).bfloat16()
    cache = torch.randn(2, 20, 1, 16, 128).to(kv_dtype)
    int32 = partial(torch.tensor, dtype=torch.int32)
    starts = int32([0, *torch.tensor(counts).cumsum(0).tolist()])
    tiles = [(3, 0), (2, 0)] + [(0, PAST)] * captured
    seqs, firsts = (int32(column) for column in zip(*tiles, strict=True))
    batch = CudaBatch(
        token_ids=starts, positions=int32([at for part in positions for at in part] + [-1] * spare), slots=int32(slots + [-1] * spare),
        page_table=table, query_starts=starts, kv_lengths=int32(lengths), logit_rows=starts, rows=int32([0, 1, 2, 3]),
        num_decodes=4 if captured else 2, decode_lengths=int32([9, 70, 0, 0]) if captured else None,
        decode_choice=DecodeChoice(splits=1), tiles=Tiles(seqs=seqs, starts=firsts),
    )  # fmt: skip
    outs, caches = [], []
    for within in (False, True):
        choices = Choices(tuned={}, variants=Variants(prefill=PrefillChoice(cuda=True), rotated_prompts=int(within)))
        caches.append(cache.clone())
        ops = CudaOps(config, weights, caches[-1:], dtype=BF16, choices=choices, max_seqs=8, max_position=128)
        with interpreted(Setting()):
            q, k, v = ops.rope(0, qkv, batch)
            out = ops.attention(0, q, k, v, batch)
        assert isinstance(out, Quantized) == rounds
        outs.append(floats(out)[: sum(counts)])
        assert isinstance(q, Unrotated) == within
    assert torch.equal(caches[0].view(torch.uint8), caches[1].view(torch.uint8))
    assert torch.isfinite(outs[0]).all()
    assert torch.equal(outs[0][:2], outs[1][:2])
    assert torch.allclose(outs[0], outs[1], rtol=0.13 if rounds else 0.02, atol=0.02)
