"""What a request may ask of an engine. Every refusal names the field, what was given, what is allowed. Knows no files."""

from __future__ import annotations

import msgspec

from ingot.errors import RequestError
from ingot.manifest import Limits, Manifest
from ingot.runtime.grammars.check import check_grammar
from ingot.runtime.params import SamplingParams

MAX_N = 128
MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_STOP_LENGTH = 1024  # characters
MAX_STOP_TOKEN_IDS = 128
MAX_LOGIT_BIAS = 1024
MAX_SEED = 2**63 - 1
MAX_INT = 2**31 - 1

# field: (smallest, largest) allowed, both included
RANGES: dict[str, tuple[float, float]] = {
    "max_tokens": (1, MAX_INT),
    "min_tokens": (0, MAX_INT),
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_k": (0, MAX_INT),
    "min_p": (0, 1),
    "repetition_penalty": (0, 10),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "seed": (-MAX_SEED - 1, MAX_SEED),
    "n": (1, MAX_N),
    "logprobs": (0, MAX_LOGPROBS),
    "prompt_logprobs": (0, MAX_LOGPROBS),
}
ABOVE_ZERO = ("top_p", "repetition_penalty")


def check_params(params: SamplingParams, vocab_size: int) -> None:
    """Raises RequestError unless every field is of its type and in its range."""
    try:
        msgspec.convert(msgspec.to_builtins(params), SamplingParams)
    except (msgspec.ValidationError, TypeError) as error:
        raise RequestError(
            f"The sampling parameters are malformed: {error}.", mend="Correct the named field."
        ) from error
    for field, (low, high) in RANGES.items():
        value = getattr(params, field)
        if value is None:
            continue
        if not low <= value <= high or (value == 0 and field in ABOVE_ZERO):  # NaN fails the comparison too
            _refuse(field, value, _range(low, high, above=field in ABOVE_ZERO))
    if params.max_tokens is not None and params.min_tokens > params.max_tokens:
        _refuse("min_tokens", params.min_tokens, f"at most max_tokens, {params.max_tokens}")
    if params.grammar is not None:
        check_grammar(params.grammar)
        if params.ignore_eos:
            _refuse("ignore_eos", True, "false where a grammar says where the text ends")
    _check_stops(params.stop)
    if len(params.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        _refuse("stop_token_ids", f"{len(params.stop_token_ids)} ids", f"at most {MAX_STOP_TOKEN_IDS}")
    _check_ids("stop_token_ids", params.stop_token_ids, vocab_size)
    if len(params.logit_bias) > MAX_LOGIT_BIAS:
        _refuse("logit_bias", f"{len(params.logit_bias)} entries", f"at most {MAX_LOGIT_BIAS}")
    _check_ids("logit_bias", tuple(params.logit_bias), vocab_size)
    for token_id, bias in params.logit_bias.items():
        if not -100 <= bias <= 100:
            _refuse("logit_bias", f"{bias} for token {token_id}", _range(-100, 100))


def check_task(manifest: Manifest, task: str) -> None:
    """Raises RequestError where the engine does not serve generate or embed."""
    if task in manifest.tasks:
        return
    if task == "generate":
        raise RequestError(
            f"The model {manifest.name!r} is an encoder: it makes vectors and generates no text.",
            mend="Send it to /v1/embeddings, or name a model that generates.",
            param="model",
        )
    raise RequestError(
        f"The engine of {manifest.name!r} was built without embeddings.",
        mend="Build it again with this ingot, for target cpu or cuda.",
        param="model",
    )


def check_embed(token_ids: list[int], pooling: str, manifest: Manifest, vocab_size: int) -> None:
    """Raises RequestError unless the text has tokens, of the vocabulary, no more than the engine holds, and pooling is known."""
    allowed = ("mean", "last") if "generate" in manifest.tasks else ("mean", "last", "cls")
    if pooling not in allowed:
        _refuse("pooling", repr(pooling), ", ".join(allowed))
    if not token_ids:
        raise RequestError("The text has no tokens.", param="input", mend="Send at least one token.")
    _check_ids("input", (min(token_ids), max(token_ids)), vocab_size)
    limits = manifest.limits
    slots = limits.num_pages * limits.page_size if limits.num_pages else limits.max_model_len
    most = min(limits.max_model_len, slots)
    if len(token_ids) > most:
        raise RequestError(
            f"The text has {len(token_ids)} tokens; this engine holds {most}.",
            param="input",
            mend=f"Shorten it to {most} tokens or fewer.",
        )


def check_priority(priority: int) -> None:
    if not isinstance(priority, int) or not -MAX_INT <= priority <= MAX_INT:
        _refuse("priority", priority, f"a whole number, {-MAX_INT} to {MAX_INT}")


def check_prompt(token_ids: list[int], params: SamplingParams, limits: Limits, vocab_size: int) -> None:
    """Raises RequestError unless the prompt has tokens, of the vocabulary, and leaves room for what is asked for."""
    if not token_ids:
        raise RequestError("The prompt has no tokens.", param="prompt", mend="Send at least one token.")
    try:
        msgspec.convert(token_ids, list[int])
    except msgspec.ValidationError as error:
        raise RequestError(
            f"The prompt's token ids are malformed: {error}.", param="prompt", mend="Send integers."
        ) from error
    _check_ids("prompt", (min(token_ids), max(token_ids)), vocab_size)
    length = len(token_ids)
    if length >= limits.max_model_len:
        raise RequestError(
            f"The prompt has {length} tokens; this engine holds {limits.max_model_len}, prompt and output together.",
            param="prompt",
            mend=f"Shorten the prompt to {limits.max_model_len - 1} tokens or fewer.",
        )
    field = "min_tokens" if params.max_tokens is None else "max_tokens"
    wanted = params.min_tokens if params.max_tokens is None else params.max_tokens
    if length + wanted > limits.max_model_len:
        raise RequestError(
            f"The prompt has {length} tokens and {field} is {wanted}: {length + wanted} together; "
            f"this engine holds {limits.max_model_len}.",
            param=field,
            mend=f"Ask for {limits.max_model_len - length} tokens or fewer, or shorten the prompt.",
        )


def _check_stops(stops: tuple[str, ...]) -> None:
    if len(stops) > MAX_STOPS:
        _refuse("stop", f"{len(stops)} strings", f"at most {MAX_STOPS}")
    for stop in stops:
        if not 1 <= len(stop) <= MAX_STOP_LENGTH:
            _refuse("stop", f"a string of {len(stop)} characters", f"1 to {MAX_STOP_LENGTH} characters each")


def _check_ids(field: str, token_ids: tuple[int, ...], vocab_size: int) -> None:
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            _refuse(field, f"token id {token_id}", f"0 to {vocab_size - 1}")


def _range(low: float, high: float, *, above: bool = False) -> str:
    if high == MAX_INT:
        return f"{low} or more"
    return f"above {low}, up to {high}" if above else f"{low} to {high}"


def _refuse(field: str, given: object, allowed: str) -> None:
    raise RequestError(f"{field} is {given}; allowed: {allowed}.", param=field, mend=f"Correct {field}.")
