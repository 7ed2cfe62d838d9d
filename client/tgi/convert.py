"""TGI's requests to ours and our chunks to TGI's replies: pure functions, no I/O."""

from __future__ import annotations

import random
from typing import Any

from pydantic import ValidationError

from ingot.client.backend import ModelCard
from ingot.client.openai.errors import from_validation
from ingot.client.openai.refusals import refuse
from ingot.client.openai.replies import Outcome, floor
from ingot.client.openai.structured import checked, expression, json_schema
from ingot.client.tgi.schema import REFUSED_PARAMETERS, Parameters, TgiGrammar, TgiRequest
from ingot.errors import RequestError
from ingot.runtime.params import Grammar, SamplingParams
from ingot.runtime.request import Logprob

ERROR_TYPES = {429: "overloaded", 500: "generation", 503: "generation"}


def parameters_of(body: TgiRequest, *, streams: bool) -> Parameters:
    """Raises RequestError for what cannot be honoured."""
    try:
        asked = Parameters.model_validate(refuse(body.parameters or {}, REFUSED_PARAMETERS))
    except ValidationError as error:
        raise from_validation(error) from error
    best_of = asked.best_of or 1
    if best_of > 1 and (streams or asked.seed is not None or not asked.samples):
        raise RequestError(
            "'best_of' above 1 needs do_sample, no seed and no stream.", mend="Leave it out.", param="best_of"
        )
    if asked.decoder_input_details and streams:
        raise RequestError(
            "'decoder_input_details' does not stream.", mend="Use /generate.", param="decoder_input_details"
        )
    if asked.seed is None and asked.samples and best_of == 1:  # told in the details: the answer can be had again
        return asked.model_copy(update={"seed": random.getrandbits(63)})
    return asked


def sampling_params(asked: Parameters, card: ModelCard, *, streams: bool) -> SamplingParams:
    """TGI is greedy unless asked to sample, and leaves the stop sequence in the text. What is not given is the model's own."""
    own: dict[str, Any] = {"temperature": 1.0, "top_k": 0} | card.sampling
    given = {name: getattr(asked, name) for name in ("temperature", "top_p", "top_k", "repetition_penalty")}
    own |= {name: value for name, value in given.items() if value is not None}
    if not asked.samples:
        own["temperature"] = 0.0
    scored = streams or asked.shows_tokens or asked.top_n_tokens or (asked.best_of or 1) > 1
    return SamplingParams(
        max_tokens=asked.max_new_tokens,
        **own,
        frequency_penalty=asked.frequency_penalty or 0.0,
        seed=asked.seed,
        stop=tuple(asked.stop or ()),
        include_stop_in_output=True,
        n=asked.best_of or 1,
        logprobs=(asked.top_n_tokens or 0) if scored else None,
        prompt_logprobs=0 if asked.decoder_input_details else None,
        grammar=None if asked.grammar is None else grammar_of(asked.grammar),
    )


def grammar_of(asked: TgiGrammar) -> Grammar:
    """Raises RequestError for a value that is not of its type, and for a grammar that is wrong in itself."""
    value: Any = asked.value
    if asked.type == "json_schema":
        value = value.get("schema") if isinstance(value, dict) else None
    found = None
    if asked.type != "regex":
        found = json_schema(value, "grammar")
    elif isinstance(value, str):
        found = expression("regex", value)
    if found is None:
        raise RequestError(
            f"'grammar.value' is not what the type {asked.type} needs.",
            mend='Give an expression for "regex", a schema for "json", {"name", "schema"} for "json_schema".',
            param="grammar",
        )
    checked(found, "grammar")
    return found


def generation_body(asked: Parameters, inputs: str, outcomes: list[Outcome]) -> dict[str, Any]:
    """The likeliest of the sequences, by the mean log-probability of their tokens, and the others in its details."""
    ranked = sorted(outcomes, key=mean_logprob, reverse=True) if len(outcomes) > 1 else outcomes
    sequences = [sequence_body(asked, outcome, inputs) for outcome in ranked]
    body: dict[str, Any] = {"generated_text": sequences[0].pop("generated_text")}
    if asked.shows_tokens:
        body["details"] = sequences[0] | ({"best_of_sequences": sequences[1:]} if len(sequences) > 1 else {})
    return body


def mean_logprob(outcome: Outcome) -> float:
    return sum(one.logprob for one in outcome.logprobs) / max(len(outcome.logprobs), 1)


def sequence_body(asked: Parameters, outcome: Outcome, inputs: str) -> dict[str, Any]:
    reason = finish_reason(outcome.finish_reason, outcome.stop_reason)
    tokens = [token_body(one, one.text) for one in outcome.logprobs]
    if tokens and reason == "eos_token":
        tokens[-1]["special"] = True
    body = {
        "generated_text": (inputs if asked.return_full_text else "") + outcome.text,
        "finish_reason": reason,
        "generated_tokens": len(outcome.token_ids),
        "seed": asked.seed,
        "prefill": prefill_body(outcome) if asked.decoder_input_details else [],
        "tokens": tokens,
    }
    if asked.top_n_tokens:
        body["top_tokens"] = [top_body(one) for one in outcome.logprobs]
    return body


def prefill_body(outcome: Outcome) -> list[dict[str, Any]]:
    """The first token has no log-probability, and its text is not told."""
    scores = outcome.prompt_logprobs or []
    return [
        {"id": token_id, "text": "", "logprob": None}
        if one is None
        else {"id": token_id, "text": one.text, "logprob": floor(one.logprob)}
        for token_id, one in zip(outcome.prompt_token_ids, scores, strict=False)
    ]


def token_body(one: Logprob, text: str) -> dict[str, Any]:
    """`special` is true for the token that ends a text, and said by the caller."""
    return {"id": one.token_id, "text": text, "logprob": floor(one.logprob), "special": False}


def top_body(one: Logprob) -> list[dict[str, Any]]:
    return [token_body(other, other.text) for other in one.top]


def finish_reason(finish: str | None, stop: str | int | None) -> str:
    if finish == "length":
        return "length"
    return "stop_sequence" if isinstance(stop, str) else "eos_token"


def failure_body(status: int, message: str, code: str | None) -> dict[str, Any]:
    return {"error": message, "error_type": ERROR_TYPES.get(status, "validation")}
