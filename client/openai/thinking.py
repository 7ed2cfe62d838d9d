"""How much a model is to think, said in the words its chat template knows. What the template cannot be told is refused."""

from __future__ import annotations

from typing import Any

from ingot.client.backend import ModelCard
from ingot.client.openai.reasoning import MARKS
from ingot.errors import RequestError

SWITCH_NAMES = ("enable_thinking", "thinking")


def thinking_args(effort: str | None, card: ModelCard, *, param: str = "reasoning_effort") -> dict[str, Any]:
    """Arguments for the template; `effort` is OpenAI's reasoning_effort, of which "none" switches thoughts off."""
    if effort is None:
        return {}
    if effort != "none":
        if "reasoning_effort" in card.template_switches:
            return {"reasoning_effort": effort}
        raise RequestError(
            f"The model's chat template knows no effort such as {effort!r}.",
            mend="Leave it out, or steer the template with chat_template_kwargs.",
            param=param,
        )
    off = dict.fromkeys((name for name in SWITCH_NAMES if name in card.template_switches), False)
    if off or card.reasoning_parser is None:
        return off
    raise RequestError(
        "The model's chat template knows no way to switch its thoughts off.", mend="Leave it out.", param=param
    )


def thinking_on(card: ModelCard, *, param: str) -> dict[str, Any]:
    """Arguments for the template of a request that wants to see thoughts. Raises RequestError where none can be told apart."""
    if card.reasoning_parser is None:
        raise RequestError(
            "This server does not know how its model marks its thoughts.",
            mend="Leave it out, or start the server with --reasoning-parser.",
            param=param,
        )
    return dict.fromkeys((name for name in SWITCH_NAMES if name in card.template_switches), True)


def parser_of(card: ModelCard, effort: str | None) -> str | None:
    """The name in MARKS to read an answer with: a model that begins inside its thoughts does not where they are off."""
    if card.reasoning_parser is not None and effort == "none" and MARKS[card.reasoning_parser].inside:
        return None
    return card.reasoning_parser
