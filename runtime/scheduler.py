"""Who runs in the next step, on which rows and pages. Decides and keeps count; executes nothing and knows no torch.

There is no prefill and no decode: every sequence has num_computed chasing its tokens (see sequence.py), so chunked
prefill, prefix hits and recompute after preemption are one rule.

A plan may be scheduled before the one before it is settled. What makes that safe:

    Steps run in the order they were launched, and a step writes its KV before it reads any. A finished, aborted or
    preempted sequence gives its pages back at once, although a launched step may still write to them: whoever leases
    such a page next writes it in a later step, and reads only positions it wrote itself. Only the prefix tree hands
    out written pages, and it takes a page only when all its tokens are settled. A launched step writes past those.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Collection
from heapq import heappop, heappush

from ingot.manifest import Limits
from ingot.runtime.leases import Leases
from ingot.runtime.messages import Stats, TokenChunk, TokenRequest
from ingot.runtime.plan import FEED, Arrival, Constraint, Slice, StepPlan, StepResult, TokenLogprobs
from ingot.runtime.queue import ORDER, RequestQueue
from ingot.runtime.sequence import Sequence, Status

FED = [FEED]


class Scheduler:
    def __init__(
        self, limits: Limits, num_pages: int, *, eos_token_ids: Collection[int] = (), max_waiting: int = 4096
    ) -> None:
        self.leases = Leases(num_pages, limits.page_size)
        self._max_tokens = limits.max_num_batched_tokens
        self._spare = num_pages // 100  # left free at admission, so that running sequences can grow a while
        self._eos = frozenset(eos_token_ids)
        self._queue = RequestQueue(limits, num_pages, eos_token_ids=eos_token_ids, max_waiting=max_waiting)
        self._running: list[Sequence] = []  # sorted by Sequence.order
        self._launched: deque[list[Sequence]] = deque()  # per unsettled plan, parallel to its slices
        self._free_rows = list(range(limits.max_num_seqs))  # a heap: the lowest free row is given first
        self._departures: list[int] = []
        self._has_finished = False  # some of self._running have
        self._steps = self._preemptions = 0
        self._prompt_tokens = self._generation_tokens = 0

    @property
    def has_work(self) -> bool:
        return bool(self._queue.live or self._launched)

    def stats(self) -> Stats:
        pool = self.leases.pool
        return Stats(
            running=len(self._running),
            waiting=self._queue.live - len(self._running),
            pages_free=pool.free,
            pages_cached=pool.cached,
            pages_held=pool.held,
            pages_total=pool.total,
            preemptions=self._preemptions,
            prefix_queries=self.leases.prefix_queries,
            prefix_hits=self.leases.prefix_hits,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._generation_tokens,
        )

    # -- requests in and out

    def add(self, request: TokenRequest, constraint: Constraint | None = None, queued_at: float | None = None) -> None:
        """Queues params.n sequences. Raises RequestError for one that can never run, QueueFullError for one too many."""
        self._queue.add(request, len(self._running), constraint, queued_at)

    def abort(self, request_id: str, index: int | None = None) -> list[TokenChunk]:
        """Ends one sequence of a request, or all. Unknown and ended ones are no error: they may just have ended."""
        aborted = self._queue.find(request_id, index)
        for seq in aborted:
            self._finish(seq)
        self._sweep()
        return [
            TokenChunk(
                request_id=request_id, index=o.index, token_ids=[], finish_reason="abort", cached_tokens=o.cached_tokens
            )
            for o in aborted
        ]

    def has(self, request_id: str) -> bool:
        """Whether any sequence of the request waits or runs."""
        return bool(self._queue.find(request_id, None))

    # -- decide

    def schedule(self) -> StepPlan | None:
        """The next step, or None where nothing can run before an earlier step is settled (or nothing is there at all)."""
        plan = StepPlan(self._steps, [])
        launched: list[Sequence] = []
        preemptions = self._preemptions
        budget = self._continue(plan.slices, launched)
        if self._preemptions == preemptions:
            self._admit(plan, launched, budget)
        if not launched:
            return None
        self._steps += 1
        plan.departures, self._departures = self._departures, []
        self._launched.append(launched)
        return plan

    def _continue(self, slices: list[Slice], launched: list[Sequence]) -> int:
        """Gives every running sequence its next tokens. Returns what is left of the step's tokens."""
        budget = self._max_tokens
        for seq in self._running:  # victims of preemption leave at its end, behind seq or as seq
            if budget <= 0:
                break
            start = seq.num_computed
            known = seq.tokens
            unread = len(known) - start  # below 1: the next token is on its way
            if unread > 1:
                part = self._read(seq, self._share(seq, budget))
                slices.append(part)
                launched.append(seq)
                budget -= len(part.tokens)
                continue
            if unread < 1 and seq.constraint is not None:
                continue  # its mask is made of the token that is on its way
            if start < seq.clear_until:
                pages, new = seq.pages, 0
            elif start + 1 >= seq.max_len:
                continue  # its last token is on its way
            elif self.leases.has_slot(seq, start) or self._grow(seq):
                pages, new = self.leases.cover(seq, start + 1)
            else:
                break  # seq itself was preempted, and so was everyone behind it
            tokens = [known[start]] if unread == 1 else FED
            slices.append(Slice(seq.row, seq.seq_id, start, tokens, pages, new, True))
            launched.append(seq)
            seq.num_computed = start + 1
            budget -= 1
        return budget

    def _share(self, seq: Sequence, budget: int) -> int:
        """How many tokens a running sequence may read: one stays for each sequence behind it, so that none stalls."""
        behind = len(self._running) - 1 - bisect_left(self._running, seq.order, key=ORDER)
        return max(1, budget - behind)

    def _read(self, seq: Sequence, budget: int) -> Slice:
        """Up to `budget` of a sequence's known, uncomputed tokens; their pages are leased already."""
        start = seq.num_computed
        end = min(len(seq.tokens), start + budget)
        pages, new = self.leases.cover(seq, end)
        seq.num_computed = end
        return Slice(seq.row, seq.seq_id, start, seq.tokens[start:end], pages, new, end == len(seq.tokens))

    def _grow(self, seq: Sequence) -> bool:
        """Leases one more page, preempting the last in order while there is none; False when that is `seq` itself."""
        while not self.leases.pool.available:
            victim = self._running[-1]
            self._preempt(victim)
            if victim is seq:
                return False
        self.leases.grow(seq)
        return True

    def _admit(self, plan: StepPlan, launched: list[Sequence], budget: int) -> None:
        """Starts waiting sequences in order while there are tokens, rows, and pages for all that they know."""
        while budget and self._free_rows and (seq := self._queue.head):
            if self._is_in_flight(seq) or not self.leases.start(seq, spare=self._spare if self._running else 0):
                break
            self._queue.pop()
            insort(self._running, seq, key=ORDER)
            self._prompt_tokens += 0 if seq.has_run else seq.num_prompt
            seq.run()
            seq.row = heappop(self._free_rows)
            outputs = seq.tokens[seq.num_prompt :]
            prompt = seq.request.token_ids
            known = seq.row, seq.seq_id, seq.params, seq.seed, prompt, outputs
            plan.arrivals.append(Arrival(*known, seq.constraint, seq.request.pooling))
            part = self._read(seq, budget)
            plan.slices.append(part)
            launched.append(seq)
            budget -= len(part.tokens)

    def _is_in_flight(self, seq: Sequence) -> bool:
        """Whether a preempted sequence is in a step that is not settled, and so has a token or more to come."""
        return seq.has_run and any(seq in sequences for sequences in self._launched)

    # -- settle

    def settle(self, plan: StepPlan, result: StepResult) -> list[TokenChunk]:
        """Takes in the tokens of the oldest launched plan. What was sampled past a stop or an abort is dropped."""
        chunks = []
        sequences = self._launched.popleft()
        columns = zip(sequences, plan.slices, result.tokens, result.logprobs, result.prompt_logprobs, strict=True)
        for seq, part, token, logprob, prompt_logprobs in columns:
            tokens = seq.tokens
            if len(tokens) < seq.quiet_until and token not in seq.stop_token_ids:
                tokens.append(token)
                chunks.append(
                    TokenChunk(
                        request_id=seq.request_id, index=seq.index, token_ids=[token], cached_tokens=seq.cached_tokens
                    )
                )
            elif (chunk := self._settle_one(seq, part, token, logprob, prompt_logprobs, result.vectors)) is not None:
                chunks.append(chunk)
        self._generation_tokens += len(chunks)
        self._sweep()
        return chunks

    def _settle_one(
        self,
        seq: Sequence,
        part: Slice,
        token: int,
        logprob: TokenLogprobs | None,
        prompt_logprobs: list[TokenLogprobs] | None,
        vectors: dict[int, bytes],
    ) -> TokenChunk | None:
        """Settles a slice after which there may be more to do than to hand out a token. None where it gives no token."""
        if seq.status is Status.FINISHED:
            return None
        if prompt_logprobs is not None:
            seq.collect_prompt_logprobs(part.start, prompt_logprobs)
        if seq.status is Status.RUNNING:  # not preempted meanwhile
            full = self.leases.keep_full(seq, part.start + len(part.tokens))
            if seq.followers and full >= self._queue.shareable_pages(seq):
                self._queue.release_followers(seq)
        if not part.samples:
            return None
        if seq.request.pooling is not None:
            return self._settle_pooled(seq, vectors[seq.seq_id])
        seq.tokens.append(token)
        reason = stop_reason = None
        if token in seq.stop_token_ids:
            reason = "stop"
            stop_reason = None if token in self._eos and not seq.request.params.ignore_eos else token
        elif len(seq.tokens) >= seq.max_len:
            reason = "length"
        params = seq.request.params
        is_first = len(seq.tokens) == seq.num_prompt + 1
        if reason is not None:
            self._finish(seq)
        elif seq.status is Status.RUNNING and params.logprobs is None:
            seq.quiet_until = min((seq.num_full + 1) * self.leases.page_size, seq.max_len - 1)
        return TokenChunk(
            request_id=seq.request_id,
            index=seq.index,
            token_ids=[token],
            logprobs=None if logprob is None else [logprob],
            prompt_logprobs=seq.prompt_logprobs if is_first and params.prompt_logprobs is not None else None,
            finish_reason=reason,
            stop_reason=stop_reason,
            cached_tokens=seq.cached_tokens,
            queue_seconds=seq.queue_seconds if is_first else None,
        )

    def _settle_pooled(self, seq: Sequence, vector: bytes) -> TokenChunk:
        """Ends a request whose prompt has been read: its vector is all that it wanted."""
        self._finish(seq)
        self._generation_tokens -= 1  # settle counts its chunk as a token
        return TokenChunk(
            request_id=seq.request_id,
            index=seq.index,
            token_ids=[],
            finish_reason="stop",
            cached_tokens=seq.cached_tokens,
            vector=vector,
        )

    # -- ways to leave

    def _preempt(self, seq: Sequence) -> None:
        """Back to the queue: its full pages stay in the tree for as long as nobody needs them, the rest is recomputed."""
        self._running.pop()
        self._give_back(seq)
        seq.status = Status.WAITING
        self._queue.line_up(seq)
        self._preemptions += 1

    def _finish(self, seq: Sequence) -> None:
        """Whoever calls this sweeps the running list afterwards."""
        if seq.status is Status.RUNNING:
            self._give_back(seq)
            self._has_finished = True
        else:
            self._queue.drop(seq)
        seq.status = Status.FINISHED
        self._queue.end(seq)

    def _give_back(self, seq: Sequence) -> None:
        self.leases.end(seq)
        self._departures.append(seq.row)
        heappush(self._free_rows, seq.row)
        seq.leave_row()

    def _sweep(self) -> None:
        """Drops sequences that finished from the running list, in one pass however many they are."""
        if self._has_finished:
            self._running = [seq for seq in self._running if seq.status is Status.RUNNING]
            self._has_finished = False
