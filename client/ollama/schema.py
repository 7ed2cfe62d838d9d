"""The bodies of Ollama's routes: the fields and options that are honoured, and those that are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from ingot.client.openai.refusals import Refusal, one_of
from ingot.client.openai.schema_chat import FunctionName
from ingot.client.openai.schema_sampling import (
    COUNT_BOUND,
    MAX_LOGPROBS,
    MAX_STOPS,
    SEED_BOUND,
    STRICT,
    Count,
    Penalty,
    StopString,
)
from ingot.client.openai.schema_structured import Schema

Name = Annotated[str, Field(min_length=1, max_length=512)]


class Options(BaseModel):
    """What is not given is the model's own, or else DEFAULTS; repeat_penalty looks at the whole text."""

    model_config = STRICT

    frequency_penalty: Penalty | None = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    num_ctx: Annotated[int | None, Field(ge=1, lt=COUNT_BOUND, description="At most the engine's length.")] = None
    num_predict: Annotated[int, Field(ge=-2, lt=COUNT_BOUND, description="Below 0: to the engine's limit.")] = -1
    presence_penalty: Penalty | None = None
    repeat_penalty: Annotated[float | None, Field(gt=0)] = None
    seed: Annotated[int | None, Field(ge=-SEED_BOUND, lt=SEED_BOUND)] = None
    stop: Annotated[list[StopString], Field(fail_fast=True, max_length=MAX_STOPS)] = []
    temperature: Annotated[float | None, Field(ge=0)] = None
    top_k: Count | None = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None


DEFAULTS: dict[str, float] = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}  # Ollama's


class CalledFunction(BaseModel):
    model_config = STRICT

    name: str
    arguments: dict[str, Any]
    index: int | None = None  # of an answer that is sent back
    description: str | None = None


class ToolCall(BaseModel):
    model_config = STRICT

    function: CalledFunction
    id: str | None = None
    type: Literal["function"] | None = None


class Function(BaseModel):
    model_config = STRICT

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(BaseModel):
    model_config = STRICT

    type: Literal["function"] = "function"
    function: Function


class Asked(BaseModel):
    model_config = STRICT

    model: Name
    stream: bool | None = None  # unless it is false
    options: dict[str, Any] | None = None  # read as Options, once those that are refused are out
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=MAX_LOGPROBS)] = None
    format: Annotated[Schema | Literal["", "json"] | None, Field(description='"json", or a JSON schema.')] = None
    think: bool | Literal["low", "medium", "high"] | None = None
    keep_alive: Annotated[float | int | str | None, Field(description="Accepted: the model stays loaded.")] = None


class Turn(BaseModel):
    model_config = STRICT

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    images: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] | None = None


class ChatRequest(Asked):
    messages: Annotated[list[Turn], Field(fail_fast=True)] | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True)] | None = None


class GenerateRequest(Asked):
    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None


class ShowRequest(BaseModel):
    model_config = STRICT

    model: Name
    verbose: bool | None = None


def anything(value: Any) -> bool:
    return True


def hint(harmless: Callable[[Any], bool] = anything) -> Refusal:
    """Says where and how fast to compute, never what."""
    return Refusal(harmless=harmless, mend="Leave it out: the engine was built for its machine.")


NO_IMAGES = "This server neither reads nor makes images; leave it out."
REFUSED_GENERATE: dict[str, Refusal] = {
    "context": Refusal(harmless=one_of([]), mend="Send the conversation to /api/chat."),
    "height": Refusal(harmless=one_of(), mend=NO_IMAGES),
    "images": Refusal(harmless=one_of([]), mend=NO_IMAGES),
    "steps": Refusal(harmless=one_of(), mend=NO_IMAGES),
    "suffix": Refusal(harmless=one_of(""), mend="Put the model's own fill-in-the-middle tokens into a raw prompt."),
    "template": Refusal(harmless=one_of(""), mend="The engine's own template is used; or set raw."),
    "width": Refusal(harmless=one_of(), mend=NO_IMAGES),
}
REFUSED_OPTIONS: dict[str, Refusal] = {
    "embedding_only": hint(one_of(False)),
    "f16_kv": hint(),
    "logits_all": hint(one_of(False)),
    "low_vram": hint(),
    "main_gpu": hint(),
    "mirostat": Refusal(harmless=one_of(0), mend="Use top_p or min_p instead."),
    "mirostat_eta": hint(),  # without mirostat it asks for nothing
    "mirostat_tau": hint(),
    "num_batch": hint(),
    "num_gpu": hint(),
    "num_keep": hint(),  # of a context that overflows; ours refuses to
    "num_thread": hint(),
    "numa": hint(),
    "penalize_newline": Refusal(harmless=one_of(True), mend="Newlines are penalized as any token."),
    "repeat_last_n": Refusal(harmless=one_of(-1), mend="Only -1, the whole text, is supported."),
    "tfs_z": Refusal(harmless=one_of(1), mend="Use min_p instead."),
    "typical_p": Refusal(harmless=one_of(1), mend="Use top_p or min_p instead."),
    "use_mlock": hint(),
    "use_mmap": hint(),
    "vocab_only": hint(one_of(False)),
}
