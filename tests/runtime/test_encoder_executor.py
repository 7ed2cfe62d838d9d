"""The loop of an encoder engine: order, the size of a step, refusals, aborts."""

from __future__ import annotations

from collections.abc import Sequence

from ingot.manifest import Limits
from ingot.runtime.encoder_executor import EncoderExecutor
from ingot.runtime.messages import RequestFailed, TokenChunk, TokenRequest
from ingot.runtime.params import SamplingParams

LIMITS = Limits(max_model_len=8, max_num_seqs=4, max_num_batched_tokens=10, page_size=16, num_pages=0)


class Lengths:
    """A program whose vectors say the text and the pooling; keeps each step's texts."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []

    def vectors(self, texts: Sequence[Sequence[int]], poolings: Sequence[str]) -> list[bytes]:
        self.steps.append([len(text) for text in texts])
        return [bytes(text) + pooling.encode() for text, pooling in zip(texts, poolings, strict=True)]


def ask(name: str, length: int = 2, *, pooling: str | None = "mean", priority: int = 0) -> TokenRequest:
    tokens = [1] * length
    return TokenRequest(request_id=name, token_ids=tokens, params=SamplingParams(), pooling=pooling, priority=priority)


def run(executor: EncoderExecutor) -> list[TokenChunk | RequestFailed]:
    told = []
    while executor.has_work:
        told += executor.step()
    return told


def test_steps_hold_what_fits_in_order_of_priority_and_arrival() -> None:
    program = Lengths()
    executor = EncoderExecutor(program, LIMITS)
    for name, length, priority in (("a", 8, 0), ("b", 3, 0), ("c", 3, 0), ("d", 4, 0), ("e", 1, 0), ("z", 2, -1)):
        executor.add(ask(name, length, priority=priority))
    assert executor.stats().waiting == 6
    assert [one.request_id for one in run(executor)] == ["z", "a", "b", "c", "d", "e"]
    assert program.steps == [[2, 8], [3, 3, 4], [1]]
    assert (executor.stats().steps, executor.stats().prompt_tokens, executor.stats().waiting) == (3, 21, 0)


def test_no_more_texts_than_sequences() -> None:
    program = Lengths()
    executor = EncoderExecutor(program, LIMITS)
    for number in range(6):
        executor.add(ask(str(number), 1))
    run(executor)
    assert program.steps == [[1] * 4, [1] * 2]


def test_each_gets_its_own_vector_and_pooling() -> None:
    executor = EncoderExecutor(Lengths(), LIMITS)
    executor.add(ask("a", 2, pooling="cls"))
    (told,) = run(executor)
    assert isinstance(told, TokenChunk)
    assert (told.vector, told.finish_reason, told.token_ids) == (b"\1\1cls", "stop", [])


def test_what_it_cannot_do_is_refused_and_harms_no_other() -> None:
    executor = EncoderExecutor(Lengths(), LIMITS)
    executor.add(ask("generate", pooling=None))
    executor.add(ask("long", 9))
    executor.add(ask("empty", 0))
    executor.add(ask("good"))
    told = {one.request_id: type(one) for one in run(executor)}
    assert told == {"generate": RequestFailed, "long": RequestFailed, "empty": RequestFailed, "good": TokenChunk}


def test_aborted_requests_end_once() -> None:
    executor = EncoderExecutor(Lengths(), LIMITS)
    executor.add(ask("a"))
    executor.add(ask("b"))
    executor.abort("a")
    executor.abort("nobody")
    told = [(one.request_id, one.finish_reason) for one in run(executor) if isinstance(one, TokenChunk)]
    assert sorted(told) == [("a", "abort"), ("b", "stop")]
