"""What a checkpoint's generation_config.json asks of sampling. Knows that file alone; who asks for nothing gets what it says."""

from __future__ import annotations

import math
from pathlib import Path

from ingot.errors import EngineError, RequestError
from ingot.runtime.params import SamplingParams
from ingot.runtime.text import read_json
from ingot.runtime.validate import check_params

FILE_NAME = "generation_config.json"
FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")  # vLLM's, less max_new_tokens


def sampling_defaults(engine: Path) -> dict[str, float]:
    """By the names of SamplingParams. `do_sample` is not looked at, as in vLLM. Raises EngineError for what is out of range."""
    found = {name: value for name, value in read_json(engine / FILE_NAME).items() if name in FIELDS}
    numbers: dict[str, float] = {}
    for name, value in found.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise refusal(engine, f"{name} is {value!r}, no number")
        numbers[name] = int(value) if name == "top_k" else float(value)
    if numbers.get("top_k", 0) < 0:
        numbers["top_k"] = 0  # -1 turns it off
    try:
        check_params(SamplingParams(**numbers), vocab_size=1)  # type: ignore[arg-type]
    except RequestError as error:
        raise refusal(engine, error.message.removesuffix(".")) from error
    return numbers


def refusal(engine: Path, why: str) -> EngineError:
    return EngineError(
        f"{engine / FILE_NAME}: {why}.",
        mend="Correct it in the checkpoint and build again, or serve with --generation-config none.",
    )
