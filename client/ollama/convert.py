"""Ollama's requests to ours and our chunks to Ollama's replies: pure functions, no I/O."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from ingot.client.backend import ModelCard
from ingot.client.ollama.schema import REFUSED_OPTIONS, Asked, ChatRequest, GenerateRequest, Options
from ingot.client.openai.errors import from_validation
from ingot.client.openai.refusals import refuse
from ingot.client.openai.replies import floor
from ingot.errors import RequestError
from ingot.runtime import request as ours
from ingot.runtime.params import SamplingParams

LATEST = ":latest"


def chat_prompt(body: ChatRequest) -> ours.Prompt | None:
    """None asks for the model to be loaded, no more; a last assistant turn is continued."""
    if not body.messages:
        return None
    turns = [{"role": turn.role, "content": turn.content} for turn in body.messages]
    continues = turns[-1]["role"] == "assistant"
    return ours.Prompt(messages=turns, add_generation_prompt=not continues, continue_final_message=continues)


def text_prompt(body: GenerateRequest) -> ours.Prompt | None:
    """A raw prompt goes as it is; any other is a conversation of one turn."""
    if not body.prompt:
        return None
    if body.raw:
        if body.system:
            raise RequestError("'system' is given with 'raw'.", mend="Write it into the prompt.", param="system")
        return ours.Prompt(text=body.prompt)
    system = [{"role": "system", "content": body.system}] if body.system else []
    return ours.Prompt(messages=[*system, {"role": "user", "content": body.prompt}])


def to_ours(body: Asked, prompt: ours.Prompt, card: ModelCard) -> ours.GenerateRequest:
    return ours.GenerateRequest(
        request_id=f"ollama-{uuid.uuid4().hex}", model=card.name, prompt=prompt, params=sampling_params(body, card)
    )


def sampling_params(body: Asked, card: ModelCard) -> SamplingParams:
    try:
        options = Options.model_validate(refuse(body.options or {}, REFUSED_OPTIONS))
    except ValidationError as error:
        raise from_validation(error) from error
    if options.num_ctx is not None and options.num_ctx > card.max_model_len:
        raise RequestError(
            f"'num_ctx' is {options.num_ctx}; this engine holds {card.max_model_len} tokens.",
            mend="Lower it, or leave it out.",
            param="num_ctx",
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("'top_logprobs' without 'logprobs'.", mend="Set logprobs to true.", param="top_logprobs")
    return SamplingParams(
        max_tokens=None if options.num_predict < 0 else options.num_predict,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        repetition_penalty=options.repeat_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        seed=options.seed,
        stop=tuple(options.stop),
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )


@dataclass(slots=True)
class Reply:
    """The bodies of one answer, of a chat or of a bare prompt, and its times."""

    model: str  # as the request wrote it
    chat: bool
    began: float = field(default_factory=time.monotonic)
    first: float | None = None

    def piece(self, text: str, logprobs: list[ours.Logprob] | None = None) -> dict[str, Any]:
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.chat else {"response": text}
        scores = {"logprobs": [logprob_body(one) for one in logprobs]} if logprobs else {}
        return {"model": self.model, "created_at": now(), **said, **scores, "done": False}

    def loaded(self) -> dict[str, Any]:
        return self.piece("") | {"done": True, "done_reason": "load"}

    def arrived(self) -> None:
        self.first = self.first or time.monotonic()

    def last(self, finish_reason: str | None, usage: ours.Usage | None) -> dict[str, Any]:
        """What the last piece has besides: why it ended, how many tokens, how many nanoseconds."""
        ended = time.monotonic()
        first = self.first or ended
        return {
            "done": True,
            "done_reason": "length" if finish_reason == "length" else "stop",
            "total_duration": nanoseconds(ended - self.began),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens if usage else 0,
            "prompt_eval_duration": nanoseconds(first - self.began),
            "eval_count": usage.completion_tokens if usage else 0,
            "eval_duration": nanoseconds(ended - first),
        }


def logprob_body(one: ours.Logprob) -> dict[str, Any]:
    def entry(one: ours.Logprob) -> dict[str, Any]:
        return {"token": one.text, "logprob": floor(one.logprob), "bytes": one.bytes}

    return entry(one) | {"top_logprobs": [entry(other) for other in one.top]}


def nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def details_body(card: ModelCard) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "ingot",
        "family": "",
        "families": None,
        "parameter_size": "",
        "quantization_level": card.quant,
    }


def tag_body(card: ModelCard) -> dict[str, Any]:
    built = datetime.fromtimestamp(card.created, UTC).isoformat().replace("+00:00", "Z")
    details = details_body(card)
    return {
        "name": card.name,
        "model": card.name,
        "modified_at": built,
        "size": 0,
        "digest": card.fingerprint,
        "details": details,
    }


def show_body(card: ModelCard) -> dict[str, Any]:
    return {
        "modified_at": tag_body(card)["modified_at"],
        "details": details_body(card),
        "model_info": {
            "general.architecture": "ingot",
            "ingot.context_length": card.max_model_len,
            "ingot.vocab_size": card.vocab_size,
        },
        "capabilities": ["completion"],
    }


def failure_body(status: int, message: str, code: str | None) -> dict[str, Any]:
    return {"error": message}
