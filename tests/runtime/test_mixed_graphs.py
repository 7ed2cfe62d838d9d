"""Steps with prompts, padded to what was captured: what fits, and what the spare places hold. Needs no GPU."""

from __future__ import annotations

from ingot.manifest import Limits
from ingot.runtime.plan import FEED, Slice
from ingot.runtime.programs.cuda_step import mixed_step
from ingot.runtime.programs.mixed_graphs import PAST, Bucket, mixed_buckets, padded

LIMITS = Limits(max_model_len=4096, max_num_seqs=1024, max_num_batched_tokens=8192, page_size=32)
PROMPT = Slice(0, 0, 64, [11, 12, 13], [5], 0, True)
FED = Slice(2, 1, 9, [FEED], [1], 0, True)
HELD = Slice(3, 2, 0, [7, 8], [4], 0, False)  # a chunk that is not its prompt's last


def test_padding_reads_and_writes_nothing() -> None:
    bucket = Bucket(tokens=8, decodes=2, prompts=3, seqs=5, tiles=4)
    step = mixed_step([PROMPT, FED, HELD], [], 2)
    assert bucket.holds(step)
    inputs, starts, lengths, decoding, rows, logit_rows, sampled, seqs, firsts = (
        array.tolist() for array in padded(step, bucket)
    )
    assert inputs[:8] == [2, 0, 0, 0, 3, 3, -1, -1]
    assert inputs[16:24] == [FEED, 11, 12, 13, 7, 8, -1, -1]
    assert starts == [0, 1, 4, 6, 6, 6]
    assert lengths == [10, 67, 2, 0, 0]
    assert decoding == [10, 0], "the second place is a prompt's, which decode attention leaves alone"
    assert rows == [2, 0, 3, 0, 0]
    assert logit_rows == [0, 3, 0, 0, 0]
    assert sampled == [2, 0, -1, -1, -1], "nothing is fed to the rows of spare logits"
    assert (seqs, firsts) == ([1, 1, 2, 0], [2, 0, 0, PAST])


def test_a_step_that_does_not_fit_is_not_captured() -> None:
    bucket = Bucket(tokens=6, decodes=1, prompts=2, seqs=3, tiles=3)
    assert bucket.holds(mixed_step([PROMPT, FED, HELD], [], 2))
    assert not bucket.holds(mixed_step([PROMPT, FED, FED], [], 2)), "two that decode"
    assert not bucket.holds(mixed_step([HELD, HELD, HELD], [], 2)), "three prompts"
    assert not bucket.holds(mixed_step([PROMPT, PROMPT, FED], [], 2)), "seven tokens"
    assert not bucket.holds(mixed_step([PROMPT, FED, HELD], [], 1)), "five tiles"
    assert not bucket.holds(mixed_step([PROMPT, FED, HELD], [(0, 2)], 2)), "log-probabilities of a prompt"


def test_buckets_hold_the_steps_they_are_for() -> None:
    buckets = mixed_buckets(LIMITS, 32, 2048)
    assert [bucket for bucket in buckets if bucket.tokens == 16 and not bucket.decodes] == buckets[:1]
    assert {bucket.decodes for bucket in buckets if bucket.tokens == 2048} == {0, 16, 256}
    for count in (2, 16, 17, 300, 1100, 2048):
        alone = mixed_step([Slice(0, 0, 0, [1] * count, [], 0, True)], [], 32)
        first = next(bucket for bucket in buckets if bucket.holds(alone))
        assert not first.decodes, "a lone prompt launches no decode attention"
        assert first.tokens <= max(16, 2 * count)
    assert not mixed_buckets(LIMITS, 32, 0)
    assert {bucket.tokens for bucket in mixed_buckets(LIMITS, 32, 100)} == {16, 32, 64}
    few = Limits(max_model_len=64, max_num_seqs=3, max_num_batched_tokens=40, page_size=4)
    assert all(bucket.seqs <= 3 and bucket.tokens <= 32 for bucket in mixed_buckets(few, 32, 2048))
