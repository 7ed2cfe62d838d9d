"""Fakes that stand for the slow or foreign parts. They are under test themselves: tests/test_fakes.py."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import FEED, Arrival, Slice, StepPlan, StepResult, TokenLogprobs

EMPTY = -7  # a KV slot that nobody has written


def next_token(tokens: Sequence[int], seed: int, vocab_size: int) -> int:
    """The fake model: the next token depends on every token before it, their order, and the seed."""
    return zlib.crc32(array("q", [seed % 2**31, *tokens]).tobytes()) % vocab_size


def logprobs_of(token: int) -> TokenLogprobs:
    return TokenLogprobs(logprob=-float(token), rank=1, top=[(token, -float(token))])


def vector_of(tokens: Sequence[int], pooling: str) -> bytes:
    """The fake model's vector of a prompt: three float32."""
    told = [sum(tokens), len(tokens), tokens[-1]] if pooling == "mean" else [tokens[-1], 1, 2]
    return array("f", told).tobytes()


def generate_alone(
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    seed: int,
    vocab_size: int,
    max_model_len: int,
    eos_token_ids: Sequence[int] = (),
) -> tuple[list[int], str]:
    """What the fake model answers to a request that has the machine to itself, and why it stops."""
    tokens = list(prompt)
    stops = {*params.stop_token_ids, *(() if params.ignore_eos else eos_token_ids)}
    limit = max_model_len if params.max_tokens is None else len(prompt) + params.max_tokens
    while True:
        tokens.append(next_token(tokens, seed, vocab_size))
        if tokens[-1] in stops:
            return tokens[len(prompt) :], "stop"
        if len(tokens) >= limit:
            return tokens[len(prompt) :], "length"


@dataclass
class Row:
    """A row of the program's persistent tables."""

    seq_id: int
    params: SamplingParams
    seed: int
    prompt: list[int]
    table: list[int]
    sampled: int = EMPTY
    pooling: str | None = None
    pooled: list[int] = field(default_factory=list)  # tokens read since it arrived


class FakeTicket:
    def __init__(self, result: StepResult) -> None:
        self._result = result

    def result(self) -> StepResult:
        return self._result


class FakeProgram:
    """A Program whose KV cache holds token ids, so that a wrong, stale or wrongly shared page changes the text.

    Every token is written to the slot its own page table says, and the next token is computed from all the tokens read
    back through that table. Tables grow by each slice's new pages only, as a GPU's would, and are compared with the
    slice's full list. Raises AssertionError at a plan that breaks the contract of runtime/plan.py.
    """

    def __init__(
        self, *, num_pages: int, page_size: int, max_num_seqs: int, vocab_size: int = 40, steps_ahead: int = 0
    ) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.max_num_seqs = max_num_seqs
        self.vocab_size = vocab_size
        self.steps_ahead = steps_ahead
        self.closed = False
        self.plans: list[StepPlan] = []
        self._slots = [EMPTY] * (num_pages * page_size)
        self._rows: dict[int, Row] = {}

    def launch(self, plan: StepPlan) -> FakeTicket:
        for row in plan.departures:
            del self._rows[row]
        for arrival in plan.arrivals:
            self._arrive(arrival)
        assert plan.slices, "an empty step"
        assert len({part.row for part in plan.slices}) == len(plan.slices), "a row twice in one step"
        for part in plan.slices:
            self._write(part)
        self.plans.append(plan)
        return FakeTicket(
            StepResult(
                tokens=[self._sample(part) for part in plan.slices],
                logprobs=[self._logprobs(part) for part in plan.slices],
                prompt_logprobs=[self._prompt_logprobs(part) for part in plan.slices],
                vectors={part.seq_id: vector for part in plan.slices if (vector := self._vector(part)) is not None},
            )
        )

    def close(self) -> None:
        self.closed = True

    def _arrive(self, arrival: Arrival) -> None:
        assert arrival.row not in self._rows, "the row is taken"
        assert 0 <= arrival.row < self.max_num_seqs
        row = Row(arrival.seq_id, arrival.params, arrival.seed, arrival.prompt_tokens, table=[])
        row.pooling = arrival.pooling
        self._rows[arrival.row] = row

    def _write(self, part: Slice) -> None:
        row = self._rows[part.row]
        assert row.seq_id == part.seq_id
        assert part.tokens, "a slice without tokens"
        row.table += part.pages[len(part.pages) - part.num_new_pages :]
        end = part.start + len(part.tokens)
        assert row.table == part.pages, "the pages named new do not add up to the sequence's pages"
        assert len(row.table) == -(-end // self.page_size), "pages cover exactly the positions up to the last token"
        assert FEED not in part.tokens[:-1], "only the last token can be unknown"
        tokens = [row.sampled if token == FEED else token for token in part.tokens]
        for position, token in enumerate(tokens, part.start):
            assert 0 <= token < self.vocab_size
            self._slots[self._slot(row, position)] = token

    def _sample(self, part: Slice) -> int:
        if not part.samples:
            return -1
        row = self._rows[part.row]
        seen = [self._slots[self._slot(row, position)] for position in range(part.start + len(part.tokens))]
        row.sampled = next_token(seen, row.seed, self.vocab_size)
        return row.sampled

    def _logprobs(self, part: Slice) -> TokenLogprobs | None:
        row = self._rows[part.row]
        return logprobs_of(row.sampled) if part.samples and row.params.logprobs is not None else None

    def _prompt_logprobs(self, part: Slice) -> list[TokenLogprobs] | None:
        """Of the prompt tokens that the slice's positions predict."""
        row = self._rows[part.row]
        if row.params.prompt_logprobs is None:
            return None
        end = part.start + len(part.tokens)
        return [logprobs_of(token) for token in row.prompt[part.start + 1 : end + 1]]

    def _vector(self, part: Slice) -> bytes | None:
        """Of a prompt read to its end: made of the tokens read since it arrived, or of the last, as real ones are."""
        row = self._rows[part.row]
        row.pooled += part.tokens
        if row.pooling is None or not part.samples:
            return None
        return vector_of(row.pooled, row.pooling)

    def _slot(self, row: Row, position: int) -> int:
        return row.table[position // self.page_size] * self.page_size + position % self.page_size
