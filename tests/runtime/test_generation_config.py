"""What is taken from a checkpoint's generation_config.json, and what is refused there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ingot.errors import EngineError
from ingot.runtime.generation_config import FILE_NAME, sampling_defaults


def test_only_sampling_is_taken(tmp_path: Path) -> None:
    assert sampling_defaults(tmp_path) == {}
    asked = {
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "min_p": None,
        "repetition_penalty": 1.05,
        "do_sample": False,
        "eos_token_id": [1, 2],
        "max_new_tokens": 2048,
    }
    (tmp_path / FILE_NAME).write_text(json.dumps(asked))
    found = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.05}
    assert sampling_defaults(tmp_path) == found
    (tmp_path / FILE_NAME).write_text('{"top_k": -1}')
    assert sampling_defaults(tmp_path) == {"top_k": 0}


@pytest.mark.parametrize("asked", [{"temperature": "hot"}, {"top_p": 1.5}, {"top_k": True}, {"repetition_penalty": 0}])
def test_what_is_out_of_range_is_refused_with_the_file(tmp_path: Path, asked: dict[str, Any]) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps(asked))
    (name,) = asked
    with pytest.raises(EngineError, match=f"{FILE_NAME}: {name} is") as refused:
        sampling_defaults(tmp_path)
    assert "--generation-config none" in refused.value.mend
