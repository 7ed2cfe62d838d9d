"""Requests that are not done, and the line of sequences that wait to run. Knows limits and order; no rows, no pages."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection
from operator import attrgetter

from ingot.errors import QueueFullError, RequestError
from ingot.manifest import Limits
from ingot.runtime.messages import TokenRequest
from ingot.runtime.plan import Constraint
from ingot.runtime.sequence import Sequence

ORDER = attrgetter("order")


class RequestQueue:
    def __init__(self, limits: Limits, num_pages: int, *, eos_token_ids: Collection[int], max_waiting: int) -> None:
        """`max_waiting` bounds the sequences that have not started; preempted ones may exceed it."""
        self._page_size = limits.page_size
        self._max_len = min(limits.max_model_len, num_pages * limits.page_size + 1)  # the last token needs no slot
        self._max_pooled = min(limits.max_model_len, num_pages * limits.page_size)  # nothing follows a pooled prompt
        self._max_waiting = max_waiting
        self._eos = frozenset(eos_token_ids)
        self._requests: dict[str, list[Sequence]] = {}  # those of their sequences that have not ended
        self._line: list[Sequence] = []  # sorted by Sequence.order
        self._next_seq_id = self._arrivals = 0
        self.live = 0  # sequences that have not ended, waiting or running

    @property
    def head(self) -> Sequence | None:
        return self._line[0] if self._line else None

    def find(self, request_id: str, index: int | None) -> list[Sequence]:
        """The sequences of a request that have not ended, or the one of that index."""
        return [seq for seq in self._requests.get(request_id, ()) if index is None or seq.index == index]

    def add(
        self, request: TokenRequest, running: int, constraint: Constraint | None = None, queued_at: float | None = None
    ) -> None:
        """Lines up params.n sequences. Raises RequestError for one that can never run, QueueFullError for one too many.

        Sequences that share whole pages of prompt follow the first of them: they line up once it has read the prompt.
        """
        n = request.params.n
        if request.request_id in self._requests:
            raise RequestError(f"Request {request.request_id!r} is running.", mend="Give every request its own id.")
        if self.live - running + n > self._max_waiting:
            raise QueueFullError(
                f"{self.live - running} sequences wait, of {self._max_waiting} that may; this request adds {n}.",
                mend="Send the request again later.",
            )
        leader, *followers = sequences = self._sequences(request, constraint, queued_at)
        self._requests[request.request_id] = sequences
        self.live += n
        self.line_up(leader)
        leader.followers = followers
        if request.params.prompt_logprobs is not None or not self.shareable_pages(leader):
            self.release_followers(leader)

    def line_up(self, seq: Sequence) -> None:
        insort(self._line, seq, key=ORDER)

    def pop(self) -> None:
        """Takes the head out of the line."""
        del self._line[0]

    def drop(self, seq: Sequence) -> None:
        """Takes a waiting sequence out, wherever it waits."""
        place = bisect_left(self._line, seq.order, key=ORDER)
        if place < len(self._line) and self._line[place] is seq:
            del self._line[place]
        else:
            self._requests[seq.request_id][0].followers.remove(seq)

    def end(self, seq: Sequence) -> None:
        """Forgets a sequence that is in the line no more; its followers no longer wait for it."""
        self.release_followers(seq)
        self.live -= 1
        siblings = self._requests[seq.request_id]
        siblings.remove(seq)
        if not siblings:
            del self._requests[seq.request_id]

    def release_followers(self, leader: Sequence) -> None:
        for seq in leader.followers:
            self.line_up(seq)
        leader.followers = []

    def shareable_pages(self, seq: Sequence) -> int:
        """Whole pages of its prompt that another sequence can start from: at least one token is always computed."""
        return (seq.num_prompt - 1) // self._page_size

    def _sequences(
        self, request: TokenRequest, constraint: Constraint | None, queued_at: float | None
    ) -> list[Sequence]:
        params = request.params
        max_len = self._longest(len(request.token_ids), params.max_tokens, pooled=request.pooling is not None)
        stop_token_ids = frozenset(params.stop_token_ids)
        if not params.ignore_eos:
            stop_token_ids |= self._eos
        self._arrivals += 1
        self._next_seq_id += params.n
        first = self._next_seq_id - params.n
        return [
            Sequence(
                request,
                index,
                seq_id=first + index,
                arrival=self._arrivals,
                max_len=max_len,
                stop_token_ids=stop_token_ids,
                constraint=constraint,
                queued_at=queued_at,
            )
            for index in range(params.n)
        ]

    def _longest(self, prompt: int, max_tokens: int | None, *, pooled: bool) -> int:
        """The length at which a sequence ends at the latest."""
        if prompt == 0:
            raise RequestError("The prompt has no tokens.", param="prompt", mend="Send at least one token.")
        if pooled:
            if prompt > self._max_pooled:
                raise RequestError(
                    f"The text has {prompt} tokens; a sequence holds {self._max_pooled}.",
                    param="input",
                    mend="Shorten it.",
                )
            return prompt + 1
        if prompt + (max_tokens or 1) > self._max_len:
            raise RequestError(
                f"A prompt of {prompt} tokens and {max_tokens or 1} more are asked for; a sequence holds {self._max_len}.",
                param="max_tokens" if prompt < self._max_len else "prompt",
                mend="Shorten the prompt or ask for fewer tokens.",
            )
        return self._max_len if max_tokens is None else prompt + max_tokens
