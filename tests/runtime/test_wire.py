"""Frames survive being cut anywhere, and what is no frame is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingot.runtime.messages import Abort, FromExecutor, ToExecutor, TokenChunk, TokenRequest
from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import TokenLogprobs
from ingot.runtime.wire import LENGTH, replies_reader, requests_reader, to_frame

REQUESTS: list[ToExecutor] = [
    TokenRequest(request_id="a", token_ids=[1, 70000], params=SamplingParams(logit_bias={3: -1.5}, stop=("x",))),
    Abort(request_id="a", index=1),
]
REPLIES: list[FromExecutor] = [
    TokenChunk(request_id="a", index=0, token_ids=[5], logprobs=[TokenLogprobs(logprob=-0.5, rank=1, top=[(5, -0.5)])])
]


@given(st.lists(st.integers(min_value=1, max_value=40)))
def test_frames_cut_anywhere_come_back_whole(sizes: list[int]) -> None:
    data = to_frame(REQUESTS) * 3
    reader, found = requests_reader(), []
    for size in sizes:
        found += reader.feed(data[:size])
        data = data[size:]
    found += reader.feed(data)
    assert found == REQUESTS * 3


def test_replies_come_back_as_they_were() -> None:
    assert replies_reader().feed(to_frame(REPLIES)) == REPLIES


@pytest.mark.parametrize("data", [b"\xff" * 8, LENGTH.pack(1) + b"\x01", LENGTH.pack(3) + b"\x91\x81\xa1"])
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        requests_reader().feed(data)


def test_replies_are_no_requests() -> None:
    with pytest.raises(msgspec.ValidationError):
        requests_reader().feed(to_frame(REPLIES))
