"""Chat templates: messages in, one prompt text out. Rendered in transformers' sandbox, in another process; knows no tokens."""

from __future__ import annotations

from collections.abc import Mapping

from ingot.errors import EngineError, RequestError
from ingot.runtime.rendering import RENDERER
from ingot.runtime.request import Prompt

RESERVED = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversations",
        "documents",
        "messages",
        "tools",
    }
    | {"return_assistant_tokens_mask"}
)


class ChatTemplate:
    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        """`sources`: jinja2 by name, "default" among them. `special_tokens`: names such as bos_token that templates read."""
        self._sources = dict(sources)
        self._special_tokens = dict(special_tokens)

    def source(self, *, with_tools: bool) -> str:
        default = self._sources["default"]
        return self._sources.get("tool_use", default) if with_tools else default

    def render(self, prompt: Prompt) -> str:
        """The text of prompt.messages. Waits for another process: not for an event loop.

        Raises RequestError where the template refuses them or takes too long, EngineError where it is broken.
        """
        taken = RESERVED & prompt.template_args.keys()
        if taken:
            raise RequestError(
                f"The template arguments {sorted(taken)} are set by the server.",
                param="chat_template_kwargs",
                mend="Leave them out.",
            )
        call = {
            **self._special_tokens,
            **prompt.template_args,
            "conversations": [prompt.messages or []],
            "tools": prompt.tools,
            "chat_template": self.source(with_tools=bool(prompt.tools)),
            "add_generation_prompt": prompt.add_generation_prompt,
            "continue_final_message": prompt.continue_final_message,
        }
        try:
            answer = RENDERER.ask(call)
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(
                f"The messages are not JSON: {error}.", param="messages", mend="Send plain values."
            ) from error
        if "broken" in answer:
            raise EngineError(
                f"The engine's chat template is not valid jinja2: {answer['broken']}.",
                mend="Correct it in the checkpoint and build again.",
            )
        if "refused" in answer:
            raise RequestError(
                f"The engine's chat template does not take these messages: {answer['refused']}.",
                param="messages",
                mend="Send roles and contents that the model's template knows.",
            )
        return answer["text"]
