"""OpenAI's fields that are refused: each with the values that mean nothing and therefore pass, and what to do instead.

Every other field of OpenAI's is honoured: it stands in a schema module. A test walks the official client's types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ingot.errors import RequestError


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    harmless: Callable[[Any], bool]  # values besides null that ask for nothing
    mend: str
    passes: str = ""  # those values, for a reader


def one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def is_label(value: Any) -> bool:
    """A name for the caller's own books; it never changes an answer."""
    return isinstance(value, str) and len(value) <= 1024


def is_labels(value: Any) -> bool:
    return isinstance(value, dict) and len(value) <= 64 and all(is_label(label) for label in value.values())


NO_AUDIO = "This server answers with text only; leave it out."
NO_SEARCH = "This server has no web search; leave it out."
NO_FUNCTIONS = "Functions are not supported; leave it out."

LABEL = Refusal(harmless=is_label, mend="Give a short string.", passes="a short string: a label for your own books")

REFUSED_CHAT: dict[str, Refusal] = {
    "audio": Refusal(harmless=one_of(), mend=NO_AUDIO),
    "function_call": Refusal(harmless=one_of("none"), mend=NO_FUNCTIONS, passes='"none"'),
    "functions": Refusal(harmless=one_of([]), mend=NO_FUNCTIONS, passes="[]"),
    "metadata": Refusal(
        harmless=is_labels, mend="Give an object of at most 64 short strings.", passes="labels for your own books"
    ),
    "modalities": Refusal(harmless=one_of(["text"]), mend='Only ["text"] is supported.', passes='["text"]'),
    "moderation": Refusal(harmless=one_of(), mend="This server does not moderate; leave it out."),
    "prediction": Refusal(harmless=one_of(), mend="Predicted outputs are not supported; leave it out."),
    "prompt_cache_key": Refusal(
        harmless=is_label,
        mend="Give a short string; caching is automatic.",
        passes="a short string; caching is automatic",
    ),
    "prompt_cache_options": Refusal(
        harmless=one_of({}, {"mode": "implicit"}),
        mend="Caching is automatic; to isolate tenants use cache_salt.",
        passes='{"mode": "implicit"}',
    ),
    "prompt_cache_retention": Refusal(
        harmless=one_of("in_memory"),
        mend='Only "in_memory" is supported: prefixes are kept while memory lasts.',
        passes='"in_memory"',
    ),
    "safety_identifier": LABEL,
    "service_tier": Refusal(
        harmless=one_of("auto", "default"), mend='Only "auto" and "default" are supported.', passes='"auto", "default"'
    ),
    "store": Refusal(harmless=one_of(False), mend="This server stores nothing; leave it out.", passes="false"),
    "user": LABEL,
    "verbosity": Refusal(
        harmless=one_of("medium"), mend="Ask for shorter or longer answers in the prompt.", passes='"medium"'
    ),
    "web_search_options": Refusal(harmless=one_of(), mend=NO_SEARCH),
}

REFUSED_COMPLETIONS: dict[str, Refusal] = {
    "user": LABEL,
    "suffix": Refusal(harmless=one_of(""), mend="Put the model's own fill-in-the-middle tokens into the prompt."),
}


def refuse(fields: dict[str, Any], refused: Mapping[str, Refusal]) -> dict[str, Any]:
    """The fields without those that ask for nothing. Raises RequestError for one that asks for something refused."""
    for name in fields.keys() & refused.keys():
        value, refusal = fields[name], refused[name]
        if value is not None and not refusal.harmless(value):
            raise RequestError(f"The field '{name}' is not supported with this value.", mend=refusal.mend, param=name)
    return {name: value for name, value in fields.items() if name not in refused}
