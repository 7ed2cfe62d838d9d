"""Samples a step's tokens for many requests at once. Keeps what each row's parameters need; rows without them pay nothing.

Order of operations is vLLM's: penalties, logit_bias, min_tokens, temperature, min_p, top_k, top_p; a grammar's
mask goes before temperature and has the last word. Log-probabilities are of the raw distribution, before all of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ingot.runtime.constraints import RowConstraints
from ingot.runtime.draw import draw, draw_top_k, draw_truncated, finite
from ingot.runtime.logprobs import Measured, measure
from ingot.runtime.noise import uniform
from ingot.runtime.params import SamplingParams
from ingot.runtime.penalties import SeenTokens
from ingot.runtime.plan import Arrival, Slice, TokenLogprobs
from ingot.runtime.transfer import put

Rows = NDArray[np.int64]
COLDEST = 1e-5  # temperatures below are greedy


class Kind(IntEnum):
    """How a row's token is found, the cheapest first."""

    GREEDY = 0
    PLAIN = 1
    TOP_K = 2
    TRUNCATED = 3  # by top_p or min_p without a top_k: the whole row is sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """What the draws of R rows take."""

    numbers: NDArray[np.float32]  # (R, 4) temperature, 1 of greedy rows, top_k, top_p, min_p
    noise: NDArray[np.float32]  # (R,)
    kinds: NDArray[np.int64]  # (R,) of Kind

    @property
    def last(self) -> Kind:
        return Kind(max(int(self.kinds.max()), Kind.PLAIN))

    @property
    def most_top_k(self) -> int:
        return int(self.numbers[:, 1].max())


@dataclass(slots=True)
class Edits:
    """The rare changes of single logits that one row asks for."""

    bias_ids: Tensor
    bias: Tensor
    stop_ids: Tensor  # not to be sampled before min_tokens


class Sampler:
    """State by row, 0 .. max_num_seqs - 1: parameters on the host, token counts on `device` beside the logits."""

    def __init__(
        self,
        *,
        max_num_seqs: int,
        vocab_size: int,
        eos_token_ids: Sequence[int] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        self._vocab_size = vocab_size
        self._eos = tuple(eos_token_ids)
        self._device = torch.device(device)
        self._edits: list[Edits | None] = [None] * max_num_seqs
        self._seeds = np.zeros(max_num_seqs, np.uint64)
        self._numbers = np.zeros((max_num_seqs, 4), np.float32)  # temperature, top_k, top_p, min_p
        self._penalties = np.zeros((max_num_seqs, 3), np.float32)  # repetition, presence, frequency
        self._random = np.zeros(max_num_seqs, bool)
        self._truncated = np.zeros(max_num_seqs, bool)
        self._penalized = np.zeros(max_num_seqs, bool)
        self._biased = np.zeros(max_num_seqs, bool)
        self._logprobs = np.full(max_num_seqs, -1, np.int64)
        self._free_from = np.zeros(max_num_seqs, np.int64)  # position from which stop tokens may be sampled
        self._seen = SeenTokens(max_num_seqs, vocab_size, self._device)
        self._constraints = RowConstraints(max_num_seqs, vocab_size, self._eos, self._device)

    def admit(self, arrival: Arrival) -> None:
        """A sequence takes a row; whatever the row held before is gone."""
        row, params = arrival.row, arrival.params
        self._seeds[row] = arrival.seed & 0xFFFF_FFFF_FFFF_FFFF
        self._numbers[row] = params.temperature, params.top_k, params.top_p, params.min_p
        self._penalties[row] = params.repetition_penalty, params.presence_penalty, params.frequency_penalty
        self._random[row] = params.temperature >= COLDEST
        self._truncated[row] = params.top_k > 0 or params.top_p < 1 or params.min_p > 0
        self._logprobs[row] = -1 if params.logprobs is None else params.logprobs
        self._free_from[row] = len(arrival.prompt_tokens) + params.min_tokens
        self._edits[row] = self._read_edits(params)
        self._penalized[row] = bool(np.any(self._penalties[row] != (1, 0, 0)))
        self._biased[row] = bool(params.logit_bias)
        self._constraints.admit(arrival)
        if self._penalized[row]:
            self._seen.begin(row, arrival.prompt_tokens, arrival.output_tokens)

    def release(self, row: int) -> None:
        self._edits[row] = None
        self._constraints.release(row)
        for flags in (self._random, self._truncated, self._penalized, self._biased):
            flags[row] = False
        self._logprobs[row] = -1
        self._free_from[row] = 0

    def follow(self, slices: Sequence[Slice]) -> None:
        """Shows rows with a grammar their newest tokens; to be called before `draws` and `sample` with the step's slices."""
        self._constraints.follow(slices)

    def sample(self, logits: Tensor, rows: Rows, positions: Rows) -> Tensor:
        """logits (R, V) of `rows` (R,), whose tokens will stand at `positions` (R,) of their sequences -> tokens (R,)."""
        edited = self._constraints.mask(self._edit(logits, rows, positions), rows)
        random = np.flatnonzero(self._random[rows])
        if len(random) < len(rows):
            tokens = edited.argmax(-1)
        else:
            tokens = torch.empty(len(rows), dtype=torch.int64, device=self._device)
        if len(random):
            self._draw(edited, rows, positions, random, tokens)
        penalized = np.flatnonzero(self._penalized[rows])
        if len(penalized):
            self._seen.add(self._put(rows[penalized]), tokens[self._put(penalized)])
        return tokens

    def draws(self, rows: Rows, positions: Rows) -> Draws | None:
        """All that `sample` would need to know of these rows; None where one asks for more than a draw from its raw logits."""
        edits = self._penalized[rows] | self._biased[rows] | (positions < self._free_from[rows])
        if edits.any() or self._constraints.hold(rows):
            return None
        numbers, random = self._numbers[rows], self._random[rows]
        numbers[~random] = (1, 0, 1, 0)
        kinds = np.where(self._truncated[rows], Kind.TRUNCATED, Kind.PLAIN)
        kinds[numbers[:, 1] > 0] = Kind.TOP_K
        kinds[~random] = Kind.GREEDY
        return Draws(numbers=numbers, noise=uniform(self._seeds[rows], positions), kinds=kinds)

    def logprobs(self, logits: Tensor, rows: Rows, tokens: Tensor) -> list[TokenLogprobs | None]:
        """Of the raw logits (R, V) that `sample` was given, for the rows that ask: at once, on a CPU."""
        found: list[TokenLogprobs | None] = [None] * len(rows)
        places, measured = self.measure(logits, rows, tokens)
        if measured is not None:
            for place, entry in zip(places, measured.read(), strict=True):
                found[place] = entry
        return found

    def measure(self, logits: Tensor, rows: Rows, tokens: Tensor) -> tuple[list[int], Measured | None]:
        """The places among `rows` that ask for log-probabilities, and those, on their way to the host."""
        wanted = np.flatnonzero(self._logprobs[rows] >= 0)
        if not len(wanted):
            return [], None
        if len(wanted) < len(rows):
            chosen = self._put(wanted)
            logits, tokens = logits[chosen], tokens[chosen]
        return wanted.tolist(), measure(logits, tokens, self._logprobs[rows[wanted]].tolist())

    def _edit(self, logits: Tensor, rows: Rows, positions: Rows) -> Tensor:
        """Penalties, bias and forbidden stops; `logits` itself where no row has any, else a copy."""
        early = positions < self._free_from[rows]
        places = np.flatnonzero(self._penalized[rows] | self._biased[rows] | early)
        if not len(places):
            return logits
        chosen = self._put(places)
        part = finite(logits[chosen])
        penalized = np.flatnonzero(self._penalized[rows[places]])
        if len(penalized):
            which, whose = self._put(penalized), rows[places[penalized]]
            part[which] = self._seen.penalize(part[which], self._put(whose), self._put(self._penalties[whose]))
        for i, place in enumerate(places.tolist()):
            edits = self._edits[rows[place]]
            if edits is not None:
                part[i].index_add_(0, edits.bias_ids, edits.bias)
                if early[place]:
                    part[i].index_fill_(0, edits.stop_ids, float("-inf"))
        return logits.index_copy(0, chosen, part)

    def _draw(self, logits: Tensor, rows: Rows, positions: Rows, random: Rows, tokens: Tensor) -> None:
        """Fills in `tokens` at the places `random`, by groups that need the same work."""
        numbers = self._numbers[rows]
        noise = self._put(uniform(self._seeds[rows], positions))
        with_top_k = self._random[rows] & (numbers[:, 1] > 0)
        truncated = self._random[rows] & self._truncated[rows] & ~with_top_k
        plain = self._random[rows] & ~with_top_k & ~truncated
        for kind, places in enumerate((plain, truncated, with_top_k)):
            if not places.any():
                continue
            chosen = self._put(np.flatnonzero(places))
            temperature, top_k, top_p, min_p = self._put(numbers[places]).unbind(1)
            warm = finite(logits[chosen]) / temperature.unsqueeze(1)
            if kind == 0:
                tokens[chosen] = draw(warm, noise[chosen])
            elif kind == 1:
                tokens[chosen] = draw_truncated(warm, top_p, min_p, noise[chosen])
            else:
                tokens[chosen] = draw_top_k(
                    warm, top_k.long(), int(numbers[places, 1].max()), top_p, min_p, noise[chosen]
                )

    def _read_edits(self, params: SamplingParams) -> Edits | None:
        """Token ids outside the vocabulary change nothing."""
        if not params.logit_bias and not params.min_tokens:
            return None
        bias = {token: value for token, value in params.logit_bias.items() if 0 <= token < self._vocab_size}
        stops = {*params.stop_token_ids, *(() if params.ignore_eos else self._eos)}
        return Edits(
            bias_ids=self._put(np.array(list(bias), np.int64)),
            bias=self._put(np.array(list(bias.values()), np.float32)),
            stop_ids=self._put(np.array([t for t in stops if 0 <= t < self._vocab_size], np.int64)),
        )

    def _put(self, values: NDArray[Any]) -> Tensor:
        return put(values, self._device)
