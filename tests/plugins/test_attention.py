"""Paged attention: the batched form against the true one, and the true one against PyTorch's on unpaged tensors."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from ingot.network.ops import Batch
from ingot.plugins.attention import batched, reference
from ingot.plugins.quantize.reference import FP8

D, PAGE = 16, 4


@dataclass
class Case:
    q: Tensor
    k: Tensor
    v: Tensor
    cache: Tensor
    batch: Batch[Tensor]


def make(lengths: list[tuple[int, int]], heads: int, kv_heads: int, *, kv_dtype: torch.dtype, seed: int) -> Case:
    """`lengths` are (context, of which new) by sequence. What the page table says past a context is out of range."""
    random = torch.Generator().manual_seed(seed)
    pages_of = [-(-context // PAGE) for context, _ in lengths]
    num_pages = sum(pages_of) + 3
    order = torch.randperm(num_pages, generator=random)
    table = torch.full((len(lengths), max(pages_of) + 2), 1 << 40)
    slots, positions, taken = [], [], 0
    for s, (context, new) in enumerate(lengths):
        pages = order[taken : taken + pages_of[s]]
        taken += pages_of[s]
        table[s, : len(pages)] = pages
        place = torch.arange(context - new, context)
        positions.append(place)
        slots.append(pages[place // PAGE] * PAGE + place % PAGE)
    counts = torch.tensor([new for _, new in lengths])
    tokens = int(counts.sum())
    batch = Batch(
        token_ids=torch.zeros(tokens, dtype=torch.int64),
        positions=torch.cat(positions),
        slots=torch.cat(slots),
        page_table=table,
        query_starts=functional.pad(counts.cumsum(0), (1, 0)),
        kv_lengths=torch.tensor([context for context, _ in lengths]),
        logit_rows=torch.zeros(0, dtype=torch.int64),
    )
    q = 2 * torch.randn(tokens, heads, D, generator=random)
    k, v = torch.randn(2, tokens, kv_heads, D, generator=random)
    cache = torch.randn(2, num_pages, PAGE, kv_heads, D, generator=random).to(kv_dtype)
    return Case(q, k, v, cache, batch)


ragged = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from([1, 1, 1, 2, 7, 40])).map(lambda pair: (pair[0], min(pair))),
    min_size=1,
    max_size=7,
)


@settings(max_examples=80, deadline=None)
@given(
    lengths=ragged,
    heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    window=st.sampled_from([0, 1, 5, 64]),
    fp8=st.booleans(),
    seed=st.integers(0, 99),
)
def test_batched_equals_the_reference(
    lengths: list[tuple[int, int]], heads: tuple[int, int], window: int, fp8: bool, seed: int
) -> None:
    case = make(lengths, *heads, kv_dtype=FP8 if fp8 else torch.float32, seed=seed)
    kv_scale = torch.tensor([0.03, 0.7]) if fp8 else None
    other = case.cache.clone()
    truth = reference.attention(case.q, case.k, case.v, other, case.batch, window=window, kv_scale=kv_scale)
    plan = batched.plan_attention(case.batch, case.cache, (0, window), torch.float32)
    found = batched.attention(case.q, case.k, case.v, case.cache, case.batch, plan, window=window, kv_scale=kv_scale)
    assert found.shape == (len(case.q), heads[0] * D)
    assert (found - truth).abs().max() <= 1e-5
    assert torch.equal(case.cache.view(torch.uint8), other.view(torch.uint8))


def test_groups_hold_no_more_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched, "BLOCK", 2 * D * 64)  # 64 tokens of 2 KV heads
    lengths = [(n, 1) for n in (3, 40, 17, 33, 8, 9, 25, 200)]
    case = make(lengths, 4, 2, kv_dtype=torch.float32, seed=1)
    plan = batched.plan_attention(case.batch, case.cache, (0,), torch.float32)
    assert [group.num_sequences for group in plan.groups] == [1, 1, 1, 2, 3]
    truth = reference.attention(case.q, case.k, case.v, case.cache.clone(), case.batch)
    found = batched.attention(case.q, case.k, case.v, case.cache, case.batch, plan)
    assert (found - truth).abs().max() <= 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_batched_is_as_exact_as_torch_in_low_precision(dtype: torch.dtype) -> None:
    case = make([(33, 1), (40, 40), (9, 3), (1, 1)], 4, 2, kv_dtype=dtype, seed=2)
    q, k, v = case.q.to(dtype), case.k.to(dtype), case.v.to(dtype)
    truth = reference.attention(q.float(), k, v, case.cache.clone(), case.batch)
    plan = batched.plan_attention(case.batch, case.cache, (0,), dtype)
    error = batched.attention(q, k, v, case.cache.clone(), case.batch, plan).float() - truth
    one_rounding = reference.attention(q, k, v, case.cache.clone(), case.batch).float() - truth
    assert error.norm() <= 4 * one_rounding.norm()


@pytest.mark.parametrize("window", [0, 6])
def test_the_reference_is_torchs_attention(window: int) -> None:
    case = make([(19, 19)], 4, 2, kv_dtype=torch.float32, seed=3)
    found = reference.attention(case.q, case.k, case.v, case.cache, case.batch, window=window)
    place = torch.arange(19)
    mask = place <= place.unsqueeze(1)
    if window:
        mask &= place > place.unsqueeze(1) - window
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (case.q, case.k, case.v))
    expected = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    assert (found - expected[0].transpose(0, 1).flatten(1)).abs().max() <= 1e-5


def test_fp8_holds_values_over_their_scales_and_saturates() -> None:
    case = make([(4, 4)], 2, 1, kv_dtype=FP8, seed=4)
    case.k[0, 0, 0] = 1e6
    reference.attention(case.q, case.k, case.v, case.cache, case.batch, kv_scale=torch.tensor([0.5, 2.0]))
    page, offset = divmod(int(case.batch.slots[0]), PAGE)
    keys, values = case.cache.float()[:, page, offset, 0]
    assert keys[0] == 448
    assert torch.equal(keys[1:], (case.k[0, 0, 1:] / 0.5).to(FP8).float())
    assert torch.equal(values, (case.v[0, 0] / 2.0).to(FP8).float())
