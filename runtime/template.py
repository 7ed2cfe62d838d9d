"""Chat templates: messages in, one prompt text out. Renders in transformers' immutable sandbox; knows no tokens."""

from __future__ import annotations

from collections.abc import Mapping

from ingot.errors import EngineError, RequestError
from ingot.runtime.request import Prompt

# What a template can raise on messages it was not written for; jinja2's own errors come on top.
TEMPLATE_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
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
        """The text of prompt.messages. Raises RequestError where the template refuses them, EngineError where it is broken."""
        from jinja2 import TemplateError, TemplateSyntaxError  # with transformers: seconds that only chats pay
        from transformers.utils.chat_template_utils import render_jinja_template

        taken = RESERVED & prompt.template_args.keys()
        if taken:
            raise RequestError(
                f"The template arguments {sorted(taken)} are set by the server.",
                param="chat_template_kwargs",
                mend="Leave them out.",
            )
        source = self.source(with_tools=bool(prompt.tools))
        try:
            text = render_jinja_template(
                conversations=[prompt.messages or []],
                tools=prompt.tools,  # type: ignore[arg-type]
                chat_template=source,
                add_generation_prompt=prompt.add_generation_prompt,
                continue_final_message=prompt.continue_final_message,
                **{**self._special_tokens, **prompt.template_args},
            )[0][0]  # the first of the texts, the first of what comes back; annotated as a text of its own
        except TemplateSyntaxError as error:
            raise EngineError(
                f"The engine's chat template is not valid jinja2: {error}.",
                mend="Correct it in the checkpoint and build again.",
            ) from error
        except (TemplateError, *TEMPLATE_ERRORS) as error:
            raise RequestError(
                f"The engine's chat template does not take these messages: {error}.",
                param="messages",
                mend="Send roles and contents that the model's template knows.",
            ) from error
        return text
