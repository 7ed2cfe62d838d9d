"""OpenAI's requests to ours: pure functions, no I/O. What a request asks and cannot have is refused by the field's name."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ingot.client.backend import ModelCard
from ingot.client.batches.schema import BatchRequest
from ingot.client.openai.refusals import REFUSED_CHAT, REFUSED_COMPLETIONS, Refusal
from ingot.client.openai.schema_chat import ChatRequest, Message
from ingot.client.openai.schema_completions import CompletionRequest, TokenizeRequest
from ingot.client.openai.schema_embeddings import EmbeddingsRequest
from ingot.client.openai.schema_sampling import SamplingFields
from ingot.client.openai.structured import grammar_of
from ingot.client.openai.thinking import thinking_args
from ingot.client.openai.tools import forced_call, strict_calls
from ingot.errors import RequestError
from ingot.runtime.params import SamplingParams
from ingot.runtime.request import GenerateRequest, Prompt

# Every field of the official client's types is in one of the two.
USED = {
    "chat": frozenset(ChatRequest.model_fields),
    "completions": frozenset(CompletionRequest.model_fields),
    "embeddings": frozenset(EmbeddingsRequest.model_fields),
    "batches": frozenset(BatchRequest.model_fields),
}
REFUSED: dict[str, dict[str, Refusal]] = {
    "chat": REFUSED_CHAT,
    "completions": REFUSED_COMPLETIONS,
    "embeddings": {},
    "batches": {},
}

DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's, for completions only
TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,8}")
NOT_FOR_TEMPLATE: Any = {"annotations": True, "tool_calls": {"__all__": {"index"}}}
SAME_NAME = [
    "temperature",
    "top_p",
    "min_p",
    "min_tokens",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "n",
    "ignore_eos",
    "skip_special_tokens",
    "prompt_logprobs",
]


def chat_to_ours(body: ChatRequest, request_id: str, card: ModelCard, *, marked: bool = False) -> GenerateRequest:
    """`marked`: thoughts or calls are to be found in the answer by their marks."""
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise RequestError("'max_tokens' and 'max_completion_tokens' differ.", mend="Give one.", param="max_tokens")
    if body.max_tokens == 0:
        raise RequestError("'max_tokens' is 0.", mend="Ask for at least 1 token.", param="max_tokens")
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError(
            "'top_logprobs' is given without 'logprobs'.", mend="Set logprobs to true.", param="top_logprobs"
        )
    if body.continue_final_message and body.add_generation_prompt:
        raise RequestError(
            "'continue_final_message' and 'add_generation_prompt' are both true.",
            mend="Set one of them.",
            param="add_generation_prompt",
        )
    check_stream(body)
    call = forced_call(body)
    params = sampling_params(
        body,
        card,
        max_tokens=body.max_completion_tokens if body.max_tokens is None else body.max_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    if call is not None:
        if params.grammar is not None:
            raise RequestError(
                "A call is required and another format is asked for.", mend="Ask for one of them.", param="tool_choice"
            )
        params = msgspec.structs.replace(params, grammar=call)
    elif params.grammar is None and (tag := strict_calls(body, card)) is not None:
        params = msgspec.structs.replace(params, grammar=tag)
    if marked and body.skip_special_tokens is None:  # the marks are special tokens of many families
        params = msgspec.structs.replace(params, skip_special_tokens=False)
    return GenerateRequest(
        request_id=request_id,
        model=body.model,
        prompt=prompt_of(body, card),
        params=params,
        cache_salt=body.cache_salt,
        priority=body.priority or 0,
    )


def prompt_of(body: ChatRequest, card: ModelCard) -> Prompt:
    return chat_prompt(
        body.messages,
        tools=tools_for_template(body),
        template_args=thinking_args(body.reasoning_effort, card) | (body.chat_template_kwargs or {}),
        add_generation_prompt=body.add_generation_prompt is not False and not body.continue_final_message,
        continue_final_message=bool(body.continue_final_message),
    )


def completion_to_ours(body: CompletionRequest, request_id: str, card: ModelCard) -> list[GenerateRequest]:
    """One request per prompt, in order. With echo and max_tokens 0 one token is sampled, which the reply leaves out."""
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise RequestError(
            f"'best_of' is {body.best_of}, but 'n' is {body.n or 1}.", mend="Leave best_of out.", param="best_of"
        )
    if body.max_tokens == 0 and not body.echo:
        raise RequestError("'max_tokens' is 0.", mend="Ask for at least 1 token, or set echo.", param="max_tokens")
    check_stream(body)
    params = sampling_params(
        body,
        card,
        max_tokens=DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else max(body.max_tokens, 1),
        logprobs=body.logprobs,
    )
    if body.echo and body.logprobs is not None:
        params = msgspec.structs.replace(params, prompt_logprobs=max(body.logprobs, params.prompt_logprobs or 0))
    return [
        GenerateRequest(
            request_id=f"{request_id}-{i}",
            model=body.model,
            prompt=prompt,
            params=params,
            cache_salt=body.cache_salt,
            priority=body.priority or 0,
        )
        for i, prompt in enumerate(completion_prompts(body))
    ]


def completion_prompts(body: CompletionRequest) -> list[Prompt]:
    special = body.add_special_tokens is not False
    texts_or_tokens: list[Any] = body.prompt if isinstance(body.prompt, list) else [body.prompt]
    if isinstance(texts_or_tokens[0], int):
        texts_or_tokens = [texts_or_tokens]
    return [
        Prompt(text=prompt, add_special_tokens=special) if isinstance(prompt, str) else Prompt(token_ids=prompt)
        for prompt in texts_or_tokens
    ]


def tokenize_to_prompt(body: TokenizeRequest) -> Prompt:
    if (body.prompt is None) == (body.messages is None):
        raise RequestError(
            "Exactly one of 'prompt' and 'messages' is needed.", mend="Give one of them.", param="prompt"
        )
    if body.messages is None:
        return Prompt(text=body.prompt, add_special_tokens=body.add_special_tokens)
    return chat_prompt(
        body.messages,
        tools=body.tools,
        template_args=body.chat_template_kwargs,
        add_generation_prompt=body.add_generation_prompt and not body.continue_final_message,
        continue_final_message=body.continue_final_message,
    )


def sampling_params(
    body: SamplingFields, card: ModelCard, *, max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    """Fields that are not given are the model's, or keep our defaults."""
    given: dict[str, Any] = card.sampling | {
        name: getattr(body, name) for name in SAME_NAME if getattr(body, name) is not None
    }
    if body.top_k is not None:
        given["top_k"] = max(body.top_k, 0)  # vLLM turns it off with -1
    if body.stop is not None:
        given["stop"] = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    if body.stop_token_ids:
        given["stop_token_ids"] = tuple(body.stop_token_ids)
    if body.include_stop_str_in_output is not None:
        given["include_stop_in_output"] = body.include_stop_str_in_output
    if body.logit_bias:
        given["logit_bias"] = {token_id_of(key): bias for key, bias in body.logit_bias.items()}
    if max_tokens is not None and body.min_tokens is not None and body.min_tokens > max_tokens:
        raise RequestError("'min_tokens' is larger than 'max_tokens'.", mend="Lower min_tokens.", param="min_tokens")
    return SamplingParams(max_tokens=max_tokens, logprobs=logprobs, grammar=grammar_of(body), **given)


def token_id_of(key: str) -> int:
    if not TOKEN_ID.fullmatch(key):
        raise RequestError(
            f"'logit_bias' has the key {key[:20]!r}.",
            mend="Keys are token ids, without leading zeros; /tokenize gives them.",
            param="logit_bias",
        )
    return int(key)


def check_stream(body: SamplingFields) -> None:
    options = body.stream_options
    if options is not None and not body.stream:
        raise RequestError(
            "'stream_options' is given without 'stream'.", mend="Set stream to true.", param="stream_options"
        )
    if options is not None and options.continuous_usage_stats and not options.include_usage:
        raise RequestError(
            "'continuous_usage_stats' is given without 'include_usage'.",
            mend="Set include_usage to true.",
            param="stream_options",
        )
    if options is not None and options.include_obfuscation:
        raise RequestError("Events are never padded.", mend="Set include_obfuscation to false.", param="stream_options")
    if body.stream and body.prompt_logprobs is not None:
        raise RequestError(
            "'prompt_logprobs' does not stream.", mend="Leave out stream or it.", param="prompt_logprobs"
        )


def tools_for_template(body: ChatRequest) -> list[dict[str, Any]] | None:
    """As they came, without what was not given."""
    return [tool.model_dump(exclude_none=True) for tool in body.tools] if body.tools else None


def chat_prompt(
    messages: list[Message],
    *,
    tools: list[dict[str, Any]] | None,
    template_args: dict[str, Any] | None,
    add_generation_prompt: bool,
    continue_final_message: bool,
) -> Prompt:
    return Prompt(
        messages=[message_for_template(message, f"messages[{i}]") for i, message in enumerate(messages)],
        tools=tools,
        template_args=template_args or {},
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
    )


def message_for_template(message: Message, path: str) -> dict[str, Any]:
    """Plain strings, which every template knows: parts are joined by newlines as vLLM does, `developer` is `system`."""
    fields = message.model_dump(exclude_none=True, exclude=NOT_FOR_TEMPLATE)
    if isinstance(message.content, list):
        fields["content"] = "\n".join(part.text for part in message.content)
    if message.content is None:
        if message.role != "assistant":
            raise RequestError(
                f"'{path}.content' is missing.", mend="Give the message's text.", param=f"{path}.content"
            )
        fields["content"] = ""
    if message.role == "developer":
        fields["role"] = "system"
    for i, call in enumerate(fields.get("tool_calls", [])):
        call["function"]["arguments"] = arguments_of(call["function"]["arguments"], f"{path}.tool_calls[{i}]")
    return fields


def arguments_of(text: str, path: str) -> Any:
    """Templates want the object; the wire carries it as JSON text."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        param = f"{path}.function.arguments"
        raise RequestError(
            f"'{param}' is not valid JSON.", mend="Send back what the model wrote.", param=param
        ) from error
