"""/v1/responses: create, stream, run in the background, ask for again, cancel, delete, count tokens."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from ingot.client.backend import Backend, find_model
from ingot.client.dialect import Conversation, converse, json_reply
from ingot.client.openai.answers import Reading
from ingot.client.openai.body import read_body
from ingot.client.openai.convert import prompt_of
from ingot.client.openai.gate import caller_of
from ingot.client.openai.replies import Outcome
from ingot.client.openai.responses import Answer, chat_of, check_ask, check_whole, status_of
from ingot.client.openai.responses_events import ResponseEvents
from ingot.client.openai.responses_items import Turn, output_of, turns_of
from ingot.client.openai.responses_store import ResponseStore, Stored
from ingot.client.openai.schema_responses import REFUSED_RESPONSES, ResponsesRequest
from ingot.client.openai.schema_sampling import api_schema
from ingot.client.openai.streaming import Numbered, collect, event_stream, number_zero, until_gone
from ingot.errors import RequestError


def add_responses_routes(app: FastAPI, backend: Backend) -> None:
    store = ResponseStore()

    @app.post("/v1/responses", openapi_extra=api_schema(ResponsesRequest))
    async def create(request: Request) -> Response:
        ask = await read_body(request, ResponsesRequest, REFUSED_RESPONSES)
        check_ask(ask)
        owner = caller_of(request.headers)
        card = await find_model(backend, ask.model)
        turns = earlier_turns(store, ask, owner) + turns_of(ask.input)
        answer = Answer(ask, turns, card.sampling)
        found = await converse(backend, chat_of(ask, turns, card), answer.id)

        def keep(outcome: Outcome, output: list[dict[str, Any]]) -> None:
            if ask.store is not False:
                store.put(Stored(owner, answer.ended(outcome, output), answer.said(output)))

        if ask.background:
            return json_reply(await start(backend, store, answer, owner, found))
        chunks = number_zero(backend.generate(found.ours))
        if ask.stream:
            return await event_stream(request, chunks, ResponseEvents(answer, found.reading, keep))
        outcome, output = await until_gone(request, said(chunks, found.reading))
        keep(outcome, output)
        return json_reply(answer.ended(outcome, output))

    @app.post("/v1/responses/input_tokens", openapi_extra=api_schema(ResponsesRequest))
    async def input_tokens(request: Request) -> Response:
        ask = await read_body(request, ResponsesRequest, REFUSED_RESPONSES)
        card = await find_model(backend, ask.model)
        turns = earlier_turns(store, ask, caller_of(request.headers)) + turns_of(ask.input)
        count = len(await backend.tokenize(ask.model, prompt_of(chat_of(ask, turns, card), card)))
        return json_reply({"object": "response.input_tokens", "input_tokens": count})

    @app.get("/v1/responses/{response_id}")
    async def retrieve(request: Request, response_id: str) -> Response:
        if request.query_params.get("stream", "false").lower() == "true":
            raise RequestError("A stored response does not stream.", mend="Leave stream out.", param="stream")
        return json_reply(store.get(response_id, caller_of(request.headers)).body)

    @app.delete("/v1/responses/{response_id}")
    async def delete(request: Request, response_id: str) -> Response:
        store.delete(response_id, caller_of(request.headers))
        return json_reply({"id": response_id, "object": "response", "deleted": True})

    @app.post("/v1/responses/{response_id}/cancel")
    async def cancel(request: Request, response_id: str) -> Response:
        stored = store.get(response_id, caller_of(request.headers))
        if stored.work is None:
            raise RequestError("Only a response made with 'background' can be cancelled.", mend="Close its stream.")
        if stored.running:
            stored.work.cancel()
            await asyncio.wait({stored.work})
            stored.body["status"] = "cancelled"
        return json_reply(stored.body)


def earlier_turns(store: ResponseStore, ask: ResponsesRequest, owner: bytes) -> list[Turn]:
    if ask.previous_response_id is None:
        return []
    stored = store.get(ask.previous_response_id, owner)
    if stored.body["status"] not in ("completed", "incomplete"):
        raise RequestError(
            f"The previous response is {stored.body['status']}.",
            mend="Go on from one that has ended.",
            param="previous_response_id",
        )
    return stored.turns


async def said(chunks: Numbered, reading: Reading) -> tuple[Outcome, list[dict[str, Any]]]:
    """All of one answer, and its items. Raises UnavailableError where the server ended it."""
    ((outcome,),) = await collect(chunks, 1, 1)
    check_whole(outcome)
    return outcome, output_of(reading.whole(outcome.text), status=status_of(outcome))


async def start(
    backend: Backend, store: ResponseStore, answer: Answer, owner: bytes, found: Conversation
) -> dict[str, object]:
    """Begins the work and says so; what becomes of it stands in the store."""
    store.check_room()
    await backend.tokenize(answer.ask.model, found.ours.prompt)  # a request that is refused is refused at once
    stored = Stored(owner, answer.begun(), answer.turns)

    async def work() -> None:
        try:
            outcome, output = await said(number_zero(backend.generate(found.ours)), found.reading)
            stored.body, stored.turns = answer.ended(outcome, output), answer.said(output)
        except Exception as error:  # noqa: BLE001 - told in the body; what is not ours is logged there too
            stored.body = answer.failed(error)
        store.put(stored)

    stored.work = asyncio.create_task(work())
    store.put(stored)
    return answer.begun("queued")
