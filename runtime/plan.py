"""The step plan: all that crosses from policy to program, and back. Plain integers, no torch.

    plan   = scheduler.schedule()          decide
    ticket = program.launch(plan)          do (asynchronous)
    done   = scheduler.settle(plan, ticket.result())   settle

A program may be launched one step ahead of settling: a slice whose last token is FEED takes the token that the same
row sampled in the step before, which on a GPU never leaves the device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from ingot.runtime.params import SamplingParams

FEED = -1  # in Slice.tokens: "the token this row sampled last step"


class TokenMatcher(Protocol):
    """Follows one sequence's tokens through a grammar."""

    def accept(self, token: int) -> bool:
        """False where the grammar does not allow the token here, and for a token that ends the text: nothing follows it."""
        ...

    def fill(self, masks: Any, row: int) -> bool:
        """Sets masks[row], an int32 tensor on the host of one bit per token: which tokens may come next. False: all may."""
        ...


class Constraint(Protocol):
    """A compiled grammar, shared by all sequences that follow it."""

    overdue: bool  # following it has taken more time than its sequences' tokens allow: they must end

    def begin(self) -> TokenMatcher: ...


@dataclass(slots=True)
class Arrival:
    """A sequence takes a row: its first step, or its first since it was preempted."""

    row: int
    seq_id: int
    params: SamplingParams
    seed: int  # always set: drawn for requests that name none
    prompt_tokens: list[int]  # penalties look at these
    output_tokens: list[int]  # non-empty after a preemption
    constraint: Constraint | None = None  # of params.grammar
    pooling: str | None = None  # mean | last: a vector of the prompt is wanted, not a token


class Slice(msgspec.Struct, gc=False):
    """One sequence's part of a step: tokens at positions start, start + 1, ...

    A struct, because thousands are made per second: msgspec makes one in a third of a dataclass's time.
    """

    row: int  # place in the program's persistent tables, 0 .. max_num_seqs - 1
    seq_id: int
    start: int
    tokens: list[int]
    pages: list[int]  # the sequence's pages in order, covering every position up to the last token; not to be modified
    num_new_pages: int  # how many at the end of `pages` the row's table does not have yet
    samples: bool  # the last token's logits yield the next token (False while a prompt is still being read)


@dataclass(slots=True)
class StepPlan:
    """One step. A program reads it within launch(): the lists in it go on changing once launch() has returned."""

    step: int
    slices: list[Slice]
    arrivals: list[Arrival] = field(default_factory=list)
    departures: list[int] = field(default_factory=list)  # rows given back since the last plan; they go first

    @property
    def num_tokens(self) -> int:
        return sum(len(part.tokens) for part in self.slices)


@dataclass(slots=True)
class TokenLogprobs:
    """Log-probability of a token under the model's raw distribution, its rank (1 = best), and the best alternatives."""

    logprob: float
    rank: int
    top: list[tuple[int, float]]  # (token id, logprob), best first


@dataclass(slots=True)
class StepResult:
    """Per slice of the plan, in its order: the sampled token (or -1 where `samples` is False), and what was asked for."""

    tokens: list[int]
    logprobs: list[TokenLogprobs | None]
    prompt_logprobs: list[list[TokenLogprobs] | None]  # of tokens start + 1 ... , for slices that read a prompt
    vectors: dict[int, bytes] = field(default_factory=dict)  # by seq_id: float32 (C,) of pooled prompts read to the end


class Ticket(Protocol):
    def result(self) -> StepResult:
        """Blocks until the step's tokens are on the host."""
        ...


class Program(Protocol):
    """The loaded, executable forward of one engine, with its KV pool and its sampler."""

    num_pages: int
    page_size: int
    max_num_seqs: int
    vocab_size: int
    steps_ahead: int  # how many steps may be launched before the oldest is settled: 0 on a CPU, 1 on a GPU

    def launch(self, plan: StepPlan) -> Ticket: ...

    def close(self) -> None: ...
