"""Random histories of requests, steps and aborts on a tiny pool, where preemption and eviction never cease.

The fake program keeps tokens in its pages, so that any paging error changes a text; every text is compared with what the
same request gets alone.
"""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.fakes import FakeProgram, generate_alone, logprobs_of, vector_of

from ingot.manifest import Limits
from ingot.runtime.embed_stream import NO_TOKENS
from ingot.runtime.executor import Executor
from ingot.runtime.messages import RequestFailed, TokenChunk, TokenRequest
from ingot.runtime.params import SamplingParams

VOCAB = 12
EOS = [1]
MAX_MODEL_LEN = 26

# Few distinct tokens and many common beginnings: prefixes are shared all the time.
PROMPTS = st.builds(
    lambda base, length, tail: (base * 8)[:length] + tail,
    st.sampled_from([[5, 6, 7], [5, 6, 8], [9]]),
    st.integers(1, 14),
    st.lists(st.integers(0, VOCAB - 1), max_size=3),
)
PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.sampled_from([None, 1, 2, 5, 11]),
    seed=st.integers(0, 3),
    n=st.sampled_from([1, 1, 1, 2, 4]),
    ignore_eos=st.booleans(),
    stop_token_ids=st.sampled_from([(), (3,)]),
    prompt_logprobs=st.sampled_from([None, None, None, 0]),
    logprobs=st.sampled_from([None, None, 0]),
)


class Histories(RuleBasedStateMachine):
    steps_ahead = 0

    @initialize(
        page_size=st.sampled_from([1, 2, 4]),
        num_pages=st.integers(4, 16),
        rows=st.integers(1, 5),
        budget=st.integers(1, 20),
    )
    def start(self, page_size: int, num_pages: int, rows: int, budget: int) -> None:
        limits = Limits(
            max_model_len=MAX_MODEL_LEN, max_num_seqs=rows, max_num_batched_tokens=budget, page_size=page_size
        )
        self.program = FakeProgram(
            num_pages=num_pages,
            page_size=page_size,
            max_num_seqs=rows,
            vocab_size=VOCAB,
            steps_ahead=self.steps_ahead,
        )
        self.executor = Executor(self.program, limits, EOS, max_waiting=20)
        self.max_len = min(MAX_MODEL_LEN, num_pages * page_size + 1)
        self.requests: dict[str, TokenRequest] = {}
        self.texts: dict[tuple[str, int], list[int]] = defaultdict(list)
        self.ended: dict[tuple[str, int], str] = {}
        self.failed: dict[str, str] = {}
        self.aborted: set[tuple[str, int]] = set()

    @rule(
        prompt=PROMPTS,
        params=PARAMS,
        salt=st.sampled_from([None, None, "other"]),
        priority=st.sampled_from([0, 0, 1, -1]),
        pooling=st.sampled_from([None, None, None, "last", "mean"]),
    )
    def add(
        self, prompt: list[int], params: SamplingParams, salt: str | None, priority: int, pooling: str | None
    ) -> None:
        request = TokenRequest(
            request_id=str(len(self.requests)),
            token_ids=prompt,
            params=params if pooling is None else NO_TOKENS,
            cache_salt=salt,
            priority=priority,
            pooling=pooling,
        )
        self.requests[request.request_id] = request
        self.executor.add(request)

    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.take()

    @rule(data=st.data(), whole=st.booleans())
    def abort(self, data: st.DataObject, whole: bool) -> None:
        if not self.requests:
            return
        request = data.draw(
            st.sampled_from(sorted(self.requests.values(), key=lambda request: int(request.request_id)))
        )
        index = None if whole else data.draw(st.integers(0, request.params.n - 1))
        self.executor.abort(request.request_id, index)
        self.aborted |= {(request.request_id, each) for each in range(request.params.n) if index in (None, each)}

    @invariant()
    def pages_add_up(self) -> None:
        if hasattr(self, "executor"):
            self.executor._scheduler.leases.pool.check()

    def take(self) -> None:
        for told in self.executor.step():
            assert told.request_id not in self.failed, "something follows a failure"
            if isinstance(told, RequestFailed):
                self.failed[told.request_id] = told.code
            else:
                self.take_chunk(told)

    def take_chunk(self, told: TokenChunk) -> None:
        key = (told.request_id, told.index)
        assert key not in self.ended, "something follows the end"
        if self.requests[told.request_id].pooling is not None:
            self.take_vector(told)
            return
        params = self.requests[told.request_id].params
        first = not self.texts[key]
        self.texts[key] += told.token_ids
        if told.finish_reason is not None:
            self.ended[key] = told.finish_reason
        if not told.token_ids:
            return
        assert (told.logprobs is not None) == (params.logprobs is not None)
        if told.logprobs is not None:
            assert told.logprobs == [logprobs_of(token) for token in told.token_ids]
        if first and params.prompt_logprobs is not None:
            prompt = self.requests[told.request_id].token_ids
            assert told.prompt_logprobs == [None, *map(logprobs_of, prompt[1:])]
        else:
            assert told.prompt_logprobs is None

    def take_vector(self, told: TokenChunk) -> None:
        request = self.requests[told.request_id]
        assert told.finish_reason == ("stop" if told.vector else "abort")
        self.ended[(told.request_id, told.index)] = told.finish_reason or ""
        if told.vector is None:
            assert (told.request_id, told.index) in self.aborted
        else:  # every token was read, whatever was cached, shared or preempted
            assert told.vector == vector_of(request.token_ids, request.pooling or "")

    def teardown(self) -> None:
        if not hasattr(self, "executor"):
            return
        for _ in range(5000):
            if not self.executor.has_work:
                break
            self.take()
        assert not self.executor.has_work, "the executor never comes to rest"
        self.executor._scheduler.leases.pool.check()
        assert self.executor.stats().pages_held == 0
        for request_id, request in self.requests.items():
            if request_id not in self.failed:
                for index in range(request.params.n):
                    self.compare_with_alone(request, index)

    def compare_with_alone(self, request: TokenRequest, index: int) -> None:
        key = (request.request_id, index)
        if request.pooling is not None:
            assert key in self.ended
            return
        alone, reason = generate_alone(
            request.token_ids,
            request.params,
            seed=(request.params.seed or 0) + index,
            vocab_size=VOCAB,
            max_model_len=self.max_len,
            eos_token_ids=EOS,
        )
        if self.ended[key] == "abort":
            assert key in self.aborted
            assert self.texts[key] == alone[: len(self.texts[key])]
        else:
            assert (self.texts[key], self.ended[key]) == (alone, reason)


class HistoriesAhead(Histories):
    steps_ahead = 1


class HistoriesFarAhead(Histories):
    steps_ahead = 3


@pytest.mark.parametrize("machine", [Histories, HistoriesAhead, HistoriesFarAhead])
def test_random_histories(machine: type[Histories]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=120, stateful_step_count=30, deadline=None))
