"""Random requests in every dialect, by seed: what a soak sends. Opens no connection."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

JSON = "application/json"
Fields = dict[str, Any]
WORDS = ("What", "is", "17", "+", "25", "?", "Name", "a", "colour", "Say", "it", "twice", "in", "short", "please")
SCHEMAS: list[Fields] = [
    {"type": "object", "properties": {name: {"type": kind}}, "required": [name], "additionalProperties": False}
    for name in ("a", "b")
    for kind in ("integer", "boolean", "null")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """`kind`: valid, invalid, cancelled or slow. `ends`: any of these bytes is in an answer that is whole."""

    dialect: str
    kind: str
    path: str
    content: bytes
    content_type: str = JSON
    ends: tuple[bytes, ...] = ()
    streams: bool = False
    leaves_after: int = 0  # bytes of the answer, of a client that leaves; a slow one pauses, unless 0


def words(rng: random.Random, most: int = 8) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))


def turns(rng: random.Random) -> list[Fields]:
    return [{"role": "user", "content": words(rng)}]


def sampling(rng: random.Random) -> Fields:
    chosen = {"temperature": rng.choice([0, 0.7, 1.0, 2.0]), "top_p": rng.choice([0.5, 0.95, 1.0])}
    return {name: value for name, value in chosen.items() if rng.random() < 0.7}


def completion(rng: random.Random, model: str, stream: bool) -> Fields:
    body = {"model": model, "prompt": words(rng), "max_tokens": rng.randint(1, 60), "stream": stream} | sampling(rng)
    body |= rng.choice([{}, {"logprobs": 3}, {"n": 3}, {"stop": ["."]}, {"seed": rng.randint(0, 9)}, {"echo": True}])
    return body | ({"prompt": [words(rng), words(rng)]} if rng.random() < 0.1 else {})


def chat(rng: random.Random, model: str, stream: bool) -> Fields:
    body = {"model": model, "messages": turns(rng), "max_tokens": rng.randint(1, 60), "stream": stream} | sampling(rng)
    if rng.random() < 0.15:
        schema = dict(rng.choice(SCHEMAS))
        if rng.random() < 0.05:
            schema["title"] = "".join(rng.choices(string.ascii_letters, k=8))  # one that was never compiled
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return body | ({"logprobs": True, "top_logprobs": 5} if rng.random() < 0.1 else {})


def response(rng: random.Random, model: str, stream: bool) -> Fields:
    body = {"model": model, "input": words(rng), "max_output_tokens": rng.randint(1, 60), "stream": stream}
    return body | {"store": rng.random() < 0.3} | sampling(rng)


def message(rng: random.Random, model: str, stream: bool) -> Fields:
    body = {"model": model, "messages": turns(rng), "max_tokens": rng.randint(1, 60), "stream": stream}
    return body | ({"system": words(rng)} if rng.random() < 0.3 else {})


def generate(rng: random.Random, _model: str, _stream: bool) -> Fields:
    parameters: Fields = {"max_new_tokens": rng.randint(1, 60), "details": rng.random() < 0.3}
    return {"inputs": words(rng), "parameters": parameters | ({"do_sample": True} if rng.random() < 0.5 else {})}


def ollama_chat(rng: random.Random, model: str, stream: bool) -> Fields:
    return {"model": model, "messages": turns(rng), "stream": stream, "options": {"num_predict": rng.randint(1, 60)}}


def ollama_generate(rng: random.Random, model: str, stream: bool) -> Fields:
    return {"model": model, "prompt": words(rng), "stream": stream, "options": {"num_predict": rng.randint(1, 60)}}


@dataclass(frozen=True, slots=True)
class Route:
    dialect: str
    path: str
    body: Callable[[random.Random, str, bool], Fields]
    ends: tuple[bytes, ...]  # of a stream
    stream_path: str | None = None  # where streams have a path of their own


ROUTES = (
    Route("completions", "/v1/completions", completion, (b"data: [DONE]",)),
    Route("chat", "/v1/chat/completions", chat, (b"data: [DONE]",)),
    Route("responses", "/v1/responses", response, (b'"response.completed"', b'"response.incomplete"')),
    Route("messages", "/v1/messages", message, (b'"message_stop"',)),
    Route("tgi", "/generate", generate, (b'"generated_text":"',), "/generate_stream"),
    Route("ollama chat", "/api/chat", ollama_chat, (b'"done":true',)),
    Route("ollama generate", "/api/generate", ollama_generate, (b'"done":true',)),
)
LONG = {"temperature": 2.0, "n": 8, "logprobs": 20, "max_tokens": 120, "ignore_eos": True, "stream": True}


def random_ask(rng: random.Random, model: str) -> Ask:
    kind = rng.choices(["valid", "invalid", "cancelled", "slow"], [6, 2, 1.5, 1])[0]
    route = rng.choice(ROUTES)
    if kind == "invalid":
        return invalid(rng, route, model)
    stream = kind != "valid" or rng.random() < 0.6
    body = route.body(rng, model, stream)
    if kind == "slow" and rng.random() < 0.1:  # more than sockets hold
        route, body = ROUTES[0], {"model": model, "prompt": words(rng)} | LONG
    path = route.stream_path if stream and route.stream_path else route.path
    return Ask(
        dialect=route.dialect,
        kind=kind,
        path=path,
        content=json.dumps(body).encode(),
        ends=route.ends if stream else (),
        streams=stream,
        leaves_after=rng.choice([0, 0, 1, 400, 2000, 6000]),
    )


def invalid(rng: random.Random, route: Route, model: str) -> Ask:
    """A request that must be refused."""
    body = route.body(rng, model, False)
    content_type, path = JSON, route.path
    match rng.randrange(8):
        case 0:
            content = json.dumps(body).encode()[: rng.randint(1, 20)]
        case 1:
            content, content_type = json.dumps(body).encode(), "text/plain"
        case 2:
            content = json.dumps(body | {"no_such_field": 1}).encode()
        case 3:
            content = b'{"a":' * 2000 + b"1" + b"}" * 2000
        case 4:
            content, path = json.dumps(body).encode(), path + "/nowhere"
        case 5:
            content = json.dumps([body]).encode()
        case 6:
            content = json.dumps(body | {"model": 7, "inputs": 7}).encode()
        case _:
            content = rng.randbytes(rng.randint(1, 300))
    return Ask(dialect=route.dialect, kind="invalid", path=path, content=content, content_type=content_type)
