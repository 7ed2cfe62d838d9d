"""One sample of one request: its tokens, counters and status. Knows nothing of pools, schedulers or programs."""

from __future__ import annotations

import time
from enum import Enum

from ingot.runtime.messages import TokenRequest
from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import Constraint, TokenLogprobs

NO_ROW = -1


class Status(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Sequence:
    """`num_computed` chases the number of tokens: reading a prompt, decoding and recomputing are all the same chase.

    A token counts as computed once a step with it is launched, and as settled once that step's result is known. When
    num_computed >= len(tokens), the newest token is sampled but on its way.
    """

    __slots__ = (
        "cache_salt",
        "cached_tokens",
        "clear_until",
        "constraint",
        "covered",
        "followers",
        "has_run",
        "index",
        "max_len",
        "num_computed",
        "num_full",
        "num_kept",
        "num_prompt",
        "order",
        "pages",
        "prompt_logprobs",
        "queue_seconds",
        "queued_at",
        "quiet_until",
        "request",
        "request_id",
        "row",
        "seed",
        "seq_id",
        "status",
        "stop_token_ids",
        "tokens",
    )

    def __init__(
        self,
        request: TokenRequest,
        index: int,
        *,
        seq_id: int,
        arrival: int,
        max_len: int,
        stop_token_ids: frozenset[int],
        constraint: Constraint | None = None,
        queued_at: float | None = None,
    ) -> None:
        self.request = request
        self.request_id = request.request_id
        self.cache_salt = request.cache_salt
        self.index = index
        self.constraint = constraint  # its next mask depends on its last token: it never runs ahead of settling
        self.seq_id = seq_id
        self.seed = ((request.params.seed or 0) + index) % 2**63
        self.order = (request.priority, arrival, index)  # smaller runs sooner and is preempted later
        self.max_len = max_len  # tokens, prompt included
        self.stop_token_ids = stop_token_ids
        self.status = Status.WAITING
        self.tokens = request.token_ids.copy()
        self.num_prompt = len(self.tokens)
        self.followers: list[Sequence] = []  # wait until this one has read the prompt that they share
        self.has_run = False  # has had a row before
        self.queued_at = time.monotonic() if queued_at is None else queued_at  # when its request came
        self.queue_seconds: float | None = None  # until it first had a row
        self.cached_tokens = 0  # of the prompt, found in the prefix tree when it first ran
        self.prompt_logprobs: list[TokenLogprobs | None] = [None]  # of the prompt tokens read so far
        self.leave_row()

    def leave_row(self) -> None:
        """Forgets everything that is tied to its row and pages."""
        self.row = NO_ROW
        self.pages: list[int] = []
        self.covered = 0  # positions whose pages the row's table has
        self.clear_until = 0  # positions below need neither a new page nor a look at max_len
        self.quiet_until = 0  # tokens settled below fill no page, reach no limit and carry no log-probabilities
        self.num_computed = 0
        self.num_full = 0  # leading pages whose tokens are all settled
        self.num_kept = 0  # leading pages that are in the prefix tree

    def run(self) -> None:
        """It has a row now."""
        self.status = Status.RUNNING
        if not self.has_run:
            self.has_run = True
            self.queue_seconds = time.monotonic() - self.queued_at

    @property
    def params(self) -> SamplingParams:
        return self.request.params

    @property
    def wants_prompt_logprobs(self) -> bool:
        return self.params.prompt_logprobs is not None and len(self.prompt_logprobs) < self.num_prompt

    @property
    def reads_it_all(self) -> bool:
        """Whether every token of the prompt must be computed, whatever of it lies in the prefix tree."""
        return self.wants_prompt_logprobs or self.request.pooling == "mean"

    def collect_prompt_logprobs(self, start: int, found: list[TokenLogprobs]) -> None:
        """Takes those of tokens start + 1, start + 2, ...; the ones read again after a preemption are dropped."""
        self.prompt_logprobs += found[len(self.prompt_logprobs) - start - 1 :]
