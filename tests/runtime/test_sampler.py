"""The sampler against plain Python, against chance, and against logits no model should produce."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.naive_sampler import distribution, edited
from torch import Tensor

from ingot.runtime.logprobs import token_logprobs
from ingot.runtime.noise import uniform
from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import Arrival
from ingot.runtime.sampler import Sampler

V = 24
EOS = 2
tokens = st.integers(0, V - 1)
some_params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.4, 1.0, 1.7]),
    top_p=st.sampled_from([1.0, 1.0, 0.9, 0.3]),
    top_k=st.sampled_from([0, 0, 1, 5, 100]),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.0, 1.5, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.7]),
    logit_bias=st.dictionaries(tokens, st.sampled_from([-100.0, -2.0, 3.0]), max_size=3),
    min_tokens=st.sampled_from([0, 0, 4]),
    stop_token_ids=st.lists(tokens, max_size=2).map(tuple),
    ignore_eos=st.booleans(),
)
rows_of_a_batch = st.lists(
    st.tuples(
        some_params, st.lists(tokens, min_size=1, max_size=6), st.lists(tokens, max_size=6), st.integers(-5, 2**64)
    ),
    min_size=1,
    max_size=6,
)


def make(rows: int = 8, vocab: int = V) -> Sampler:
    return Sampler(max_num_seqs=rows, vocab_size=vocab, eos_token_ids=(EOS,))


def admit(sampler: Sampler, row: int, seed: int = 0, prompt: list[int] | None = None, **params: Any) -> None:
    prompt = [1] if prompt is None else prompt
    arrival = Arrival(row, row, SamplingParams(**params), seed, prompt, [])
    sampler.admit(arrival)


def sample(sampler: Sampler, logits: Tensor, rows: list[int], positions: list[int] | None = None) -> list[int]:
    where = np.array([1] * len(rows) if positions is None else positions)
    return sampler.sample(logits, np.array(rows), where).tolist()


@settings(max_examples=150, deadline=None)
@given(batch=rows_of_a_batch, seed=st.integers(0, 2**31))
def test_equals_plain_python_row_by_row(batch: list[Any], seed: int) -> None:
    logits = 3 * torch.randn(len(batch), V, generator=torch.Generator().manual_seed(seed))
    sampler = make()
    order = np.random.default_rng(seed).permutation(8)[: len(batch)]
    for row, (params, prompt, output, row_seed) in zip(order.tolist(), batch, strict=True):
        sampler.admit(Arrival(row, row, params, row_seed, prompt, output))
    positions = np.array([len(prompt) + len(output) for _, prompt, output, _ in batch])
    found = sampler.sample(logits, order, positions).tolist()
    seeds = np.array([row_seed & (2**64 - 1) for *_, row_seed in batch], np.uint64)
    noise = uniform(seeds, positions).tolist()
    for i, (params, prompt, output, _) in enumerate(batch):
        wanted = edited(logits[i].tolist(), params, prompt, output, EOS)
        if params.temperature == 0:
            assert wanted[found[i]] == pytest.approx(max(wanted), abs=1e-5)
        else:
            assert found[i] in reachable(distribution(wanted, params), noise[i])


def reachable(pairs: list[tuple[int, float]], target: float) -> set[int]:
    """Tokens whose interval of the cumulative distribution holds `target`, give or take float32's rounding."""
    found, mass = set(), 0.0
    for token, probability in pairs:
        if mass - 1e-5 <= target <= mass + probability + 1e-5 and probability > 0:
            found.add(token)
        mass += probability
    return found


@settings(max_examples=40, deadline=None)
@given(batch=rows_of_a_batch, seed=st.integers(0, 2**31), steps=st.integers(2, 5))
def test_a_text_does_not_depend_on_its_company(batch: list[Any], seed: int, steps: int) -> None:
    logits = 3 * torch.randn(steps, len(batch), V, generator=torch.Generator().manual_seed(seed))
    together, start = make(), [len(prompt) for _, prompt, _, _ in batch]
    alone = [make() for _ in batch]
    for i, (params, prompt, _, row_seed) in enumerate(batch):
        together.admit(Arrival(i, i, params, row_seed, prompt, []))
        alone[i].admit(Arrival(5, 0, params, row_seed, prompt, []))
    for step in range(steps):
        found = sample(together, logits[step], list(range(len(batch))), [n + step for n in start])
        single = [sample(alone[i], logits[step, i : i + 1], [5], [start[i] + step])[0] for i in range(len(batch))]
        assert found == single


@settings(max_examples=40, deadline=None)
@given(row=rows_of_a_batch.map(lambda rows: rows[0]), seed=st.integers(0, 2**31))
def test_a_preempted_row_goes_on_where_it_was(row: Any, seed: int) -> None:
    params, prompt, _, row_seed = row
    logits = 3 * torch.randn(6, 1, V, generator=torch.Generator().manual_seed(seed))
    unbroken, broken = make(), make()
    output: list[int] = []
    unbroken.admit(Arrival(0, 0, params, row_seed, prompt, []))
    for step in range(6):
        broken.admit(Arrival(step, 0, params, row_seed, prompt, list(output)))
        position = [len(prompt) + step]
        token = sample(unbroken, logits[step], [0], position)
        assert token == sample(broken, logits[step], [step], position)
        broken.release(step)
        output += token


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.5},
        {"top_p": 0.7},
        {"top_k": 4},
        {"min_p": 0.2},
        {"top_p": 0.8, "top_k": 6, "temperature": 1.5},
    ],
)
def test_frequencies_are_the_probabilities(params: dict[str, Any]) -> None:
    """Chi-square over 20,000 seeds, at the 99.99 % bound of Wilson and Hilferty's approximation."""
    logits = 1.5 * torch.randn(V, generator=torch.Generator().manual_seed(1))
    count, sampler = 20_000, make(1000)
    hits = np.zeros(V)
    for first in range(0, count, 1000):
        for row in range(1000):
            admit(sampler, row, seed=first + row, **params)
        hits += np.bincount(sample(sampler, logits.expand(1000, V), list(range(1000))), minlength=V)
    expected = np.zeros(V)
    for token, probability in distribution(logits.tolist(), SamplingParams(**params)):
        expected[token] = probability * count
    assert not hits[expected == 0].any()
    kept = expected > 0
    freedom = int(kept.sum()) - 1
    bound = freedom * (1 - 2 / (9 * freedom) + 3.72 * math.sqrt(2 / (9 * freedom))) ** 3
    assert ((hits - expected)[kept] ** 2 / expected[kept]).sum() < bound


def test_noise_is_uniform_and_never_repeats() -> None:
    seeds, positions = np.meshgrid(np.arange(256, dtype=np.uint64), np.arange(256))
    numbers = uniform(seeds.ravel(), positions.ravel())
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.histogram(numbers, 64, (0, 1))[0].std() < 1.5 * math.sqrt(65536 / 64)
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.015
    assert len(np.unique(numbers)) > 65_000


def test_all_greedy_rows_are_a_plain_argmax() -> None:
    sampler, logits = make(), torch.randn(3, V)
    for row in range(3):
        admit(sampler, row, temperature=0.0)
    assert sample(sampler, logits, [2, 0, 1]) == logits.argmax(-1).tolist()


def test_a_released_row_leaves_nothing_behind() -> None:
    sampler, logits = make(), torch.randn(1, V)
    best = int(logits.argmax())
    admit(
        sampler,
        4,
        prompt=[best],
        temperature=0.0,
        logit_bias={best: -100.0},
        min_tokens=9,
        repetition_penalty=9.0,
        logprobs=1,
    )
    assert sample(sampler, logits, [4]) != [best]
    sampler.release(4)
    admit(sampler, 4, temperature=0.0)
    assert sample(sampler, logits, [4]) == [best]
    assert sampler.logprobs(logits, np.array([4]), torch.tensor([best])) == [None]


def test_frequency_penalty_counts_what_was_sampled() -> None:
    sampler, logits = make(), torch.zeros(1, V)
    logits[0, 7], logits[0, 9] = 2.0, 1.0
    admit(sampler, 0, temperature=0.0, frequency_penalty=0.75)
    assert [sample(sampler, logits, [0], [1 + step])[0] for step in range(5)] == [7, 7, 9, 7, 9]


def test_min_tokens_holds_back_eos_and_stop_tokens_just_so_long() -> None:
    sampler, logits = make(), torch.zeros(1, V)
    logits[0, EOS], logits[0, 8], logits[0, 3] = 9.0, 8.0, 1.0
    admit(sampler, 0, prompt=[1, 1, 1], temperature=0.0, min_tokens=2, stop_token_ids=(8,))
    assert [sample(sampler, logits, [0], [position])[0] for position in (3, 4, 5)] == [3, 3, EOS]


def test_tokens_outside_the_vocabulary_change_nothing() -> None:
    sampler, logits = make(), torch.randn(1, V)
    admit(
        sampler,
        0,
        temperature=0.0,
        logit_bias={V: 100.0, -1: 100.0},
        min_tokens=1,
        stop_token_ids=(V + 5,),
        ignore_eos=True,
    )
    assert sample(sampler, logits, [0]) == [int(logits.argmax())]


@pytest.mark.parametrize("sick", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "params", [{"temperature": 0.0}, {}, {"top_k": 3}, {"top_p": 0.5}, {"presence_penalty": 1.0}, {"min_tokens": 3}]
)
def test_sick_logits_spoil_no_other_row(sick: float, params: dict[str, Any]) -> None:
    logits = torch.randn(3, V, generator=torch.Generator().manual_seed(0))
    healthy, ill = logits.clone(), logits.clone()
    ill[1] = sick
    results = []
    for batch in (healthy, ill):
        sampler = make()
        for row in range(3):
            admit(sampler, row, seed=row, **params, logprobs=2)
        drawn = sample(sampler, batch, [0, 1, 2])
        entries = sampler.logprobs(batch, np.arange(3), torch.tensor(drawn))
        assert all(0 <= token < V for token in drawn)
        assert all(entry is not None and math.isfinite(entry.logprob) for entry in entries)
        results.append([(drawn[row], entries[row]) for row in (0, 2)])
    assert results[0] == results[1]


def test_a_token_of_no_probability_is_never_drawn() -> None:
    sampler, logits = make(512), torch.full((512, V), float("-inf"))
    logits[:, 5:7] = 0.0
    for row in range(512):
        admit(sampler, row, seed=row)
    assert set(sample(sampler, logits, list(range(512)))) == {5, 6}


def test_logprobs_rank_and_list_the_raw_distribution() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0], [0.0, 0.0, 5.0, 1.0]])
    first, second = token_logprobs(logits, torch.tensor([2, 2]), [3, 0])
    expected = logits.log_softmax(-1)
    assert (first.rank, second.rank) == (2, 1)
    assert first.logprob == pytest.approx(expected[0, 2].item())
    assert first.top[0][0] == 1
    assert [logprob for _, logprob in first.top] == pytest.approx(expected[0].sort(descending=True).values[:3].tolist())
    assert second.top == []


@pytest.mark.parametrize("width", [7, 1000, 1280, 6001])
@pytest.mark.parametrize("k", [0, 1, 5, 20])
def test_logprobs_of_a_wide_vocabulary_are_exact(width: int, k: int) -> None:
    """Against a whole sort; whole numbers bring ties, and every other row has a token that stands far back."""
    generator = torch.Generator().manual_seed(width + k)
    logits = (4 * torch.randn(12, width, generator=generator)).round()
    logits[3, 2], logits[4] = float("-inf"), logits[4, 0]
    tokens = torch.where(torch.arange(12) % 2 == 0, logits.argmax(-1), torch.randint(width, (12,), generator=generator))
    tokens[3] = 2
    logprobs = logits.double().log_softmax(-1)
    for row, found in enumerate(token_logprobs(logits, tokens, [k] * 12)):
        wanted = max(float(logprobs[row, tokens[row]]), -9999.0)
        assert found.logprob == pytest.approx(wanted, abs=1e-5)
        assert found.rank == 1 + int((logits[row] > logits[row, tokens[row]]).sum())
        best = logprobs[row].sort(descending=True).values[:k].clamp_min(-9999.0).tolist()
        assert [logprob for _, logprob in found.top] == pytest.approx(best, abs=1e-5)
        assert len({token for token, _ in found.top}) == min(k, width)
        for token, logprob in found.top:
            assert logprob == pytest.approx(max(float(logprobs[row, token]), -9999.0), abs=1e-5)
