"""What a front end on another machine may ask of a hosted engine, the replies and the errors. Knows no transport."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from ingot.errors import IngotError, RequestError
from ingot.manifest import Manifest
from ingot.runtime.messages import Stats
from ingot.runtime.params import SamplingParams
from ingot.runtime.request import Chunk, EmbedRequest, GenerateRequest, Prompt


class Generate(msgspec.Struct, frozen=True, kw_only=True, tag="generate", forbid_unknown_fields=True):
    request: GenerateRequest
    stream: bool = True  # False: one reply with every chunk
    link: str | None = None  # requests of one link share replies: each carries `parts` of all that have something new


class Embed(msgspec.Struct, frozen=True, kw_only=True, tag="embed", forbid_unknown_fields=True):
    """One reply: the chunk with the vector, which JSON carries in base64."""

    request: EmbedRequest


class AbortCall(msgspec.Struct, frozen=True, kw_only=True, tag="abort", forbid_unknown_fields=True):
    """Ends every running request of that id; unknown ids are ignored."""

    request_id: str


class Tokenize(msgspec.Struct, frozen=True, kw_only=True, tag="tokenize", forbid_unknown_fields=True):
    prompt: Prompt


class Detokenize(msgspec.Struct, frozen=True, kw_only=True, tag="detokenize", forbid_unknown_fields=True):
    token_ids: list[int]


class Describe(msgspec.Struct, frozen=True, kw_only=True, tag="describe", forbid_unknown_fields=True):
    pass


Call = Generate | Embed | AbortCall | Tokenize | Detokenize | Describe


class Description(msgspec.Struct, frozen=True, kw_only=True):
    manifest: Manifest  # without its list of files
    fingerprint: str  # of the manifest
    vocab_size: int
    stats: Stats
    sampling: dict[str, float] = {}  # what its generation_config.json asks for


class Part(msgspec.Struct, frozen=True, array_like=True):
    """What is new of one request among those that share a link."""

    request_id: str  # the caller's
    number: int  # 0, 1, 2 ... within the request: transports may let replies of one link overtake each other
    chunks: list[Chunk]


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Every reply has one of these; an AbortCall's has none."""

    chunks: list[Chunk] = []
    parts: list[Part] = []  # in place of chunks where the call named a link
    token_ids: list[int] | None = None
    text: str | None = None
    description: Description | None = None


SCALARS: Mapping[str, Callable[[Any], int | float]] = {
    "max_tokens": int,
    "temperature": float,
    "top_p": float,
    "frequency_penalty": float,
    "presence_penalty": float,
    "seed": int,
}
ERROR_LINE = re.compile(r"(?P<code>[a-z_]+)(?:\((?P<param>[^)]*)\))?: (?P<message>.*)\n(?P<mend>.*)", re.DOTALL)
_decoder: msgspec.json.Decoder[Call] = msgspec.json.Decoder(Call)


def read_call(fields: Mapping[str, Sequence[Any]], request_id: str) -> Call:
    """A call from named fields, each a flat list: the JSON in `request`, or the plain fields of a text request.

    Strings are bytes, as they come off a wire. Raises RequestError.
    """
    if "request" not in fields:
        return plain_call(fields, request_id)
    if len(fields) > 1:
        raise RequestError(
            f"`request` came together with {', '.join(sorted(set(fields) - {'request'}))}.",
            mend="Put everything into `request`, or leave it out.",
            param="request",
        )
    try:
        return _decoder.decode(fields["request"][0])
    except msgspec.MsgspecError as error:
        raise RequestError(
            f"`request` is not a call: {error}.", mend="ingot/runtime/calls.py says what is.", param="request"
        ) from error


def plain_call(fields: Mapping[str, Sequence[Any]], request_id: str) -> Generate:
    """The request of a sender that knows no JSON: `text_input` or `token_ids`, and sampling parameters by name."""
    if ("text_input" in fields) == ("token_ids" in fields):
        raise RequestError(
            "A request has exactly one of `text_input`, `token_ids` and `request`.",
            mend="Send one of them.",
            param="text_input",
        )
    text = fields["text_input"][0].decode() if "text_input" in fields else None
    token_ids = list(fields["token_ids"]) if "token_ids" in fields else None
    scalars: dict[str, Any] = {name: kind(fields[name][0]) for name, kind in SCALARS.items() if name in fields}
    stop = tuple(word.decode() for word in fields.get("stop_words", ()))
    request = GenerateRequest(
        request_id=request_id,
        model="",
        prompt=Prompt(text=text, token_ids=token_ids),
        params=SamplingParams(**scalars, stop=stop),
    )
    return Generate(request=request, stream=bool(fields.get("stream", (False,))[0]))


def error_text(error: IngotError) -> str:
    """An error for a transport that carries one string: `code(param): message`, and the mend on a line of its own."""
    param = getattr(error, "param", None)
    return f"{error.code}{f'({param})' if param else ''}: {error.message}\n{error.mend}"


def error_from_text(text: str) -> IngotError | None:
    """The error that `error_text` wrote; None where the text is somebody else's."""
    found = ERROR_LINE.fullmatch(text)
    if found is None:
        return None
    code, message, mend = found["code"], found["message"], found["mend"]
    if code == RequestError.code:
        return RequestError(message, mend=mend, param=found["param"])
    kind = next((kind for kind in IngotError.__subclasses__() if kind.code == code), IngotError)
    return kind(message, mend=mend)
