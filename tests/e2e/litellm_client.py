"""LiteLLM against a live server, in its OpenAI and its Anthropic dialect. Prints what each call said as one JSON object.

A process of its own: the library reads its settings from the environment as it is imported, and keeps its connections open.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import litellm

QUESTION = [{"role": "user", "content": "What is 17 + 25?"}]
NUMBER = {"type": "integer", "minimum": 0, "maximum": 99}
PARAMETERS = {"type": "object", "properties": {"sum": NUMBER}, "required": ["sum"]}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds", "parameters": PARAMETERS}}]
NAMED = {"type": "function", "function": {"name": "add"}}


litellm.suppress_debug_info = True  # it would print to stdout


def ask(url: str, model: str, **fields: Any) -> Any:
    return litellm.completion(
        model=model, api_base=url, api_key="none", messages=QUESTION, temperature=0, max_retries=0, **fields
    )


def chat(url: str, model: str) -> dict[str, Any]:
    pieces = list(ask(url, model, max_tokens=40, stream=True, stream_options={"include_usage": True}))
    call = ask(url, model, max_tokens=100, tools=TOOLS, tool_choice=NAMED).choices[0].message.tool_calls[0]
    streamed = litellm.stream_chunk_builder(
        list(
            ask(url, model, max_tokens=100, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, stream=True)
        )
    )
    assert streamed is not None
    required = streamed.choices[0].message.tool_calls[0]  # type: ignore[union-attr]
    return {
        "whole": ask(url, model, max_tokens=40).choices[0].message.content,
        "streamed": "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices),
        "calls": [
            [one.function.name, type(json.loads(one.function.arguments)["sum"]).__name__] for one in (call, required)
        ],
    }


def refused(url: str, model: str) -> str:
    try:
        ask(url, model, max_tokens=1 << 20)
    except litellm.BadRequestError as error:
        return type(error).__name__
    return "nothing"


def main(url: str) -> None:
    found = {
        "openai": chat(url + "/v1", "openai/tiny"),
        "anthropic": chat(url, "anthropic/tiny"),
        "text": litellm.text_completion(
            model="text-completion-openai/tiny",
            api_base=url + "/v1",
            api_key="none",
            prompt="What is",
            max_tokens=3,
            echo=True,
        )
        .choices[0]
        .text[:7],
        "refused": refused(url + "/v1", "openai/tiny"),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
