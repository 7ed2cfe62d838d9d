"""Paged attention kernels against float32, over ragged lengths, random page order and pages poisoned with NaN."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import torch
from tests.exactness import assert_as_exact_as_torch
from torch import Tensor
from torch.nn import functional

from ingot.plugins.attention.launch import DecodeChoice, Paged, Rounding, Workspace, choose_decode, decode
from ingot.plugins.attention.prefill import PrefillChoice, Tiles, prefill
from ingot.plugins.attention.reference import attend, visible
from ingot.plugins.attention.tiles import plan_tiles, prefill_rows
from ingot.runtime.programs.mixed_graphs import PAST


@dataclass
class Case:
    q: Tensor
    paged: Paged
    keys: list[Tensor]  # (length, K, D) per sequence, as the cache holds them, dequantized to float32
    values: list[Tensor]
    counts: list[int]

    def truth(self) -> Tensor:
        parts = self.q.float().split(self.counts)
        return torch.cat(
            [attend(q, k, v, self.paged.window) for q, k, v in zip(parts, self.keys, self.values, strict=True)]
        )

    def plain(self) -> Tensor:
        """PyTorch's fused attention in the query's dtype."""
        out = []
        for q, k, v in zip(self.q.split(self.counts), self.keys, self.values, strict=True):
            group = q.shape[1] // k.shape[1]
            mask = visible(q.shape[0], k.shape[0], self.paged.window, q.device)
            k, v = (x.to(q.dtype).repeat_interleave(group, 1).transpose(0, 1) for x in (k, v))
            out.append(functional.scaled_dot_product_attention(q.transpose(0, 1), k, v, attn_mask=mask).transpose(0, 1))
        return torch.cat(out)


def make_case(
    device: torch.device, dtype: torch.dtype, counts: list[int], lengths: list[int], *, heads: tuple[int, int] = (8, 2), dim: int = 64,
    page: int = 16, window: int = 0, fp8: bool = False,
) -> Case:  # fmt: skip
    num_heads, num_kv_heads = heads
    per_seq = [-(-length // page) for length in lengths]
    num_pages = sum(per_seq) + 3
    order = random.sample(range(num_pages), sum(per_seq))
    cache = torch.full((2, num_pages, num_kv_heads, page, dim), float("nan"), device=device)
    table = torch.randint(0, num_pages, (len(lengths) + 2, max(per_seq) + 2), dtype=torch.int32, device=device)
    rows = torch.tensor(random.sample(range(len(lengths) + 2), len(lengths)), dtype=torch.int32, device=device)
    scales = (0.5, 2.0) if fp8 else (1.0, 1.0)
    kv_dtype = torch.float8_e4m3fn if fp8 else dtype
    keys, values = [], []
    for s, length in enumerate(lengths):
        pages = [order.pop() for _ in range(per_seq[s])]
        table[rows[s], : len(pages)] = torch.tensor(pages, dtype=torch.int32, device=device)
        for side, store in enumerate((keys, values)):
            x = (torch.randn(length, num_kv_heads, dim, device=device) * 2).to(kv_dtype).float()
            store.append(x * scales[side])
            filled = torch.full((len(pages) * page, num_kv_heads, dim), float("nan"), device=device)
            filled[:length] = x
            cache[side, pages] = filled.view(len(pages), page, num_kv_heads, dim).transpose(1, 2)
    q = torch.randn(sum(counts), num_heads, dim, device=device).to(dtype)
    paged = Paged(
        cache=cache.to(kv_dtype), page_table=table, rows=rows, lengths=torch.tensor(lengths, dtype=torch.int32, device=device),
        window=window, kv_scales=scales,
    )  # fmt: skip
    return Case(q, paged, keys, values, counts)


OUT_SCALE = 0.02


def output(case: Case, rounds: bool) -> tuple[Tensor, Rounding | None]:
    """Poisoned: bf16, or e4m3 with what rounding to it needs."""
    if not rounds:
        return torch.full_like(case.q, float("nan")), None
    poison = torch.full(case.q.shape, float("nan"), device=case.q.device)
    rounding = Rounding(
        scale=torch.tensor([OUT_SCALE], device=poison.device), row_scales=poison.new_full((len(poison),), float("nan"))
    )
    return poison.to(torch.float8_e4m3fn), rounding


def assert_rounded(found: Tensor, rounding: Rounding | None, usual: Tensor) -> None:
    """What the kernel stores `usual`ly, rounded to e4m3 before it is to bf16; and every row's scale."""
    assert rounding is not None
    assert (rounding.row_scales == OUT_SCALE).all()
    exact = (usual.float() / OUT_SCALE).clamp(-448, 448)
    step = torch.exp2(exact.abs().clamp(min=2.0**-6).log2().floor() - 3)
    assert ((found.float() - exact).abs() <= 0.5 * step + exact.abs() * 2.0**-8).all()


def run_decode(case: Case, choice: DecodeChoice, *, rounds: bool = False) -> Tensor:
    out, rounding = output(case, rounds)
    work = Workspace.allocate(len(case.counts), case.q.shape[1], case.q.shape[2], case.q.device)
    work.partial.fill_(float("nan"))
    decode(case.q, case.paged, out, work, choice, rounding)
    assert not work.counters.any()
    if rounds:
        assert_rounded(out, rounding, run_decode(case, choice))
    return out


def run_prefill(case: Case, *, spare: int = 0, choice: PrefillChoice | None = None, rounds: bool = False) -> Tensor:
    """`spare`: tiles after the others that nothing is left for, as captured steps have."""
    out, rounding = output(case, rounds)
    group = case.q.shape[1] // case.paged.cache.shape[2]
    device = case.q.device
    pairs = plan_tiles(case.counts, prefill_rows(group, case.q.shape[2]) // group)
    pairs += [(0, PAST)] * spare
    seqs, starts = (torch.tensor(column, dtype=torch.int32, device=device) for column in zip(*pairs, strict=True))
    query_starts = torch.tensor([0, *torch.tensor(case.counts).cumsum(0).tolist()], dtype=torch.int32, device=device)
    prefill(case.q, case.paged, query_starts, Tiles(seqs=seqs, starts=starts), out, choice, rounding)
    if rounds:
        assert_rounded(out, rounding, run_prefill(case, spare=spare, choice=choice))
    return out


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize(
    ("heads", "dim", "splits", "window"),
    [((8, 2), 64, 1, 0), ((6, 2), 96, 3, 0), ((2, 2), 256, 2, 0), ((8, 1), 128, 3, 50)],
)
def test_triton_decode(
    device: torch.device, dtype: torch.dtype, heads: tuple[int, int], dim: int, splits: int, window: int, fp8: bool
) -> None:
    case = make_case(device, dtype, [1, 1, 1], [1, 33, 150], heads=heads, dim=dim, window=window, fp8=fp8)
    assert_as_exact_as_torch(run_decode(case, DecodeChoice(splits=splits, cuda=False)), case.plain(), case.truth())


@pytest.mark.gpu
@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("sub", [1, 2])
@pytest.mark.parametrize(
    ("heads", "dim", "page", "splits", "window"),
    [
        ((32, 8), 128, 32, 1, 0),
        ((32, 8), 128, 16, 7, 0),
        ((7, 1), 64, 32, 3, 0),
        ((16, 2), 128, 64, 2, 100),
        ((4, 4), 64, 16, 1, 33),
    ],
)
def test_cuda_decode(
    heads: tuple[int, int], dim: int, page: int, splits: int, window: int, sub: int, fp8: bool
) -> None:
    lengths = [1, 16, 17, 100, 1025, random.randint(2, 4000)]
    case = make_case(
        torch.device("cuda"), torch.bfloat16, [1] * 6, lengths, heads=heads, dim=dim, page=page, window=window, fp8=fp8
    )
    assert_as_exact_as_torch(
        run_decode(case, DecodeChoice(splits=splits, sub=sub, warps=4 * sub, alone=0)), case.plain(), case.truth()
    )


@pytest.mark.gpu
@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize(("splits", "sub", "dim"), [(1, 2, 128), (7, 1, 128), (3, 1, 64)])
def test_cuda_decode_that_rounds(splits: int, sub: int, dim: int, fp8: bool) -> None:
    lengths = [1, 16, 17, 100, 1025, random.randint(2, 4000)]
    case = make_case(torch.device("cuda"), torch.bfloat16, [1] * 6, lengths, heads=(32, 8), dim=dim, page=32, fp8=fp8)
    run_decode(case, DecodeChoice(splits=splits, sub=sub, warps=4 * sub, alone=0), rounds=True)


@pytest.mark.gpu
@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize(("heads", "window"), [((32, 8), 0), ((7, 1), 50)])
def test_cuda_prefill_that_rounds(heads: tuple[int, int], window: int, fp8: bool) -> None:
    counts, lengths = [140, 1, 7, 130], [140, 60, 90, 700]
    case = make_case(
        torch.device("cuda"), torch.bfloat16, counts, lengths, heads=heads, dim=128, page=32, window=window, fp8=fp8
    )
    run_prefill(case, spare=3, choice=PrefillChoice(cuda=True), rounds=True)


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize(
    ("heads", "dim", "window"), [((8, 2), 64, 0), ((6, 2), 96, 0), ((2, 2), 128, 20), ((2, 1), 256, 0), ((7, 1), 64, 0)]
)
def test_prefill_over_a_prefix(
    device: torch.device, dtype: torch.dtype, heads: tuple[int, int], dim: int, window: int, fp8: bool
) -> None:
    case = make_case(device, dtype, [40, 1, 7, 130], [40, 60, 90, 131], heads=heads, dim=dim, window=window, fp8=fp8)
    assert_as_exact_as_torch(run_prefill(case), case.plain(), case.truth())


@pytest.mark.parametrize("window", [0, 20])
def test_spare_tiles_change_nothing(device: torch.device, dtype: torch.dtype, window: int) -> None:
    case = make_case(device, dtype, [40, 1, 7], [40, 60, 90], dim=64, window=window)
    assert torch.equal(run_prefill(case, spare=3), run_prefill(case))


@pytest.mark.gpu
@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("window", [0, 20])
def test_spare_tiles_end_the_persistent_kernel(window: int, fp8: bool) -> None:
    """More of them than blocks: each block meets several."""
    counts, lengths = [140, 1, 7, 130], [140, 60, 90, 700]
    case = make_case(
        torch.device("cuda"), torch.bfloat16, counts, lengths, heads=(32, 8), dim=128, page=32, window=window, fp8=fp8
    )
    found = run_prefill(case, spare=100, choice=PrefillChoice(cuda=True))
    assert torch.equal(found, run_prefill(case, choice=PrefillChoice(cuda=True)))
    assert_as_exact_as_torch(found, case.plain(), case.truth())


def test_tiles_cover_every_token_once() -> None:
    counts = [1, 64, 33, 200]
    tokens = sorted(
        (seq, start + i) for seq, start in plan_tiles(counts, 32) for i in range(32) if start + i < counts[seq]
    )
    assert tokens == [(seq, token) for seq, count in enumerate(counts) for token in range(count)]


def test_small_batches_are_split_and_large_ones_are_not() -> None:
    assert choose_decode(1, 8, 4, 128, torch.bfloat16, 8192).splits == 16
    assert choose_decode(256, 8, 4, 128, torch.bfloat16, 8192).splits == 1
    assert choose_decode(1, 8, 4, 256, torch.bfloat16, 8192).splits == 32  # Triton's, which has blocks of its own


@pytest.mark.parametrize(
    ("seqs", "fp8", "warps", "sub"),
    [
        (63, False, 2, 2),  # 504 blocks: one round of 528, not two of 396
        (69, False, 2, 1),  # 552: one of 792
        (131, False, 2, 2),  # 1048: two of 528
        (140, False, 4, 1),  # 1120: three of 396
        (1024, False, 2, 2),  # many rounds: 1.6 % fewer blocks of another way are not worth it
        (48, True, 4, 2),
        (69, True, 2, 2),
        (131, True, 2, 1),
        (1024, True, 2, 1),
    ],
)
def test_decode_is_cut_so_that_rounds_are_full(seqs: int, fp8: bool, warps: int, sub: int) -> None:
    """Each of these was the fastest, or within 3 % of it, on an H200."""
    dtype = torch.float8_e4m3fn if fp8 else torch.bfloat16
    choice = choose_decode(seqs, 8, 4, 128, dtype, 8192)
    assert (choice.splits, choice.warps, choice.sub) == (1, warps, sub)
