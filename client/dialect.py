"""What the dialects beside OpenAI's share: failures in a dialect's own words, replies, models. Knows no dialect."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ParamSpec

import msgspec
from fastapi import Request
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.responses import Response

from ingot.client.backend import Backend, ModelCard, find_model
from ingot.client.openai.answers import Reading
from ingot.client.openai.convert import chat_to_ours
from ingot.client.openai.errors import RETRY_AFTER, ClientGoneError, describe, from_validation
from ingot.client.openai.replies import Outcome
from ingot.client.openai.schema_chat import ChatRequest
from ingot.client.openai.streaming import Numbered, collect, until_gone
from ingot.client.openai.tools import reading_of
from ingot.errors import UnavailableError
from ingot.runtime.request import Chunk, GenerateRequest

Words = ParamSpec("Words")
Endpoint = Callable[Words, Awaitable[Response]]
FailureBody = Callable[[int, str, str | None], dict[str, Any]]  # status, message, code


def failing_as(body: FailureBody) -> Callable[[Endpoint[Words]], Endpoint[Words]]:
    """Decorates an endpoint: what it raises is answered with `body`'s JSON and the failure's own status."""

    def decorate(endpoint: Endpoint[Words]) -> Endpoint[Words]:
        @functools.wraps(endpoint)
        async def answer(*args: Words.args, **kwargs: Words.kwargs) -> Response:
            try:
                return await endpoint(*args, **kwargs)
            except Exception as error:
                if isinstance(error, ClientGoneError):
                    raise
                status, message, code, _ = describe(error)
                headers = {"Retry-After": RETRY_AFTER[status]} if status in RETRY_AFTER else {}
                return json_reply(body(status, message, code), status, headers)

        return answer

    return decorate


def json_reply(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


def check_whole(chunk: Chunk) -> Chunk:
    """Raises UnavailableError where the server ended the text: these dialects have no word for it."""
    if chunk.finish_reason == "abort":
        raise ended_early()
    return chunk


def ended_early() -> UnavailableError:
    return UnavailableError("The server ended this answer early.", mend="Send the request again.")


def chat_request(fields: dict[str, Any]) -> ChatRequest:
    """A chat as OpenAI words it. Raises RequestError for what no chat may be."""
    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """A chat in any dialect: what the backend is asked, and how its answer is read."""

    card: ModelCard
    ours: GenerateRequest
    reading: Reading


async def converse(backend: Backend, body: ChatRequest, request_id: str) -> Conversation:
    """Raises RequestError and UnknownModelError."""
    card = await find_model(backend, body.model)
    reading = reading_of(body, card)
    return Conversation(card=card, ours=chat_to_ours(body, request_id, card, marked=reading.needed), reading=reading)


def object_of(arguments: str) -> dict[str, Any]:
    """A call's arguments for the dialects that want an object; of those that were cut short, what is there."""
    try:
        found = from_json(arguments or "{}", allow_partial="trailing-strings")
    except ValueError:
        found = arguments
    return found if isinstance(found, dict) else {"arguments": found}


async def answer_of(request: Request, chunks: Numbered) -> Outcome:
    """All that the one sequence said. Raises UnavailableError where the server ended it, ClientGoneError as until_gone."""
    ((outcome,),) = await until_gone(request, collect(chunks, 1, 1))
    if outcome.finish_reason == "abort":
        raise ended_early()
    return outcome
