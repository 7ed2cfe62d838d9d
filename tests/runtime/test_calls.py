"""Calls from named fields, and errors that cross a wire as one string."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ingot.errors import IngotError, RequestError
from ingot.runtime.calls import Describe, Generate, error_from_text, error_text, read_call


def test_plain_fields_become_a_request() -> None:
    fields: dict[str, list[Any]] = {
        "text_input": [b"hi"],
        "max_tokens": [3],
        "temperature": [0.5],
        "top_p": [0.9],
        "frequency_penalty": [0.1],
        "presence_penalty": [0.2],
        "seed": [7],
        "stop_words": [b"a", b"b"],
        "stream": [True],
    }
    call = read_call(fields, "id")
    assert isinstance(call, Generate)
    params = call.request.params
    assert (call.stream, call.request.request_id, call.request.prompt.text) == (True, "id", "hi")
    assert (params.max_tokens, params.temperature, params.top_p, params.seed, params.stop) == (
        3,
        0.5,
        0.9,
        7,
        ("a", "b"),
    )
    assert (params.frequency_penalty, params.presence_penalty) == (0.1, 0.2)


def test_token_ids_are_a_prompt_and_one_reply_is_the_default() -> None:
    call = read_call({"token_ids": [1, 2]}, "")
    assert isinstance(call, Generate)
    assert call.request.prompt.token_ids == [1, 2]
    assert not call.stream


def test_json_is_a_call() -> None:
    assert read_call({"request": [msgspec.json.encode(Describe())]}, "") == Describe()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"text_input": [b"a"], "token_ids": [1]},
        {"request": [b"{}"], "stream": [True]},
        {"request": [b'{"type": "format", "disk": "all"}']},
        {"request": [b'{"type": "describe", "more": 1}']},
        {"request": [b"not json"]},
    ],
)
def test_anything_else_is_refused(fields: dict[str, list[Any]]) -> None:
    with pytest.raises(RequestError):
        read_call(fields, "")


def test_every_error_survives_the_wire() -> None:
    kinds = [IngotError, *IngotError.__subclasses__()]
    assert len(kinds) > 10
    for kind in kinds:
        found = error_from_text(error_text(kind("It broke: at (3).", mend="Do this.")))
        assert type(found) is kind
        assert (found.message, found.mend) == ("It broke: at (3).", "Do this.")
    named = error_from_text(error_text(RequestError("bad", mend="Mend.", param="stop[1]")))
    assert isinstance(named, RequestError)
    assert named.param == "stop[1]"
    assert error_from_text("somebody else's words") is None
