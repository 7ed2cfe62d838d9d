"""The server's OpenAPI document, made true: what FastAPI cannot know of routes that read and write their own bytes.

Knows paths and shapes of answers; a route it has no word for keeps what FastAPI says of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

Schema = dict[str, Any]
REF = "#/$defs/"
EVENTS, LINES, JSON, TEXT = "text/event-stream", "application/x-ndjson", "application/json", "text/plain"
HEAD_STATUSES = {"401": "No key, or a wrong one.", "431": "The headers are too large.", "503": "No engine is ready."}
BODY_STATUSES = {
    "400": "A field is unknown, out of range, or cannot be honoured.",
    "404": "No model, or nothing stored, has that name.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "429": "Too many requests; Retry-After says when to come again.",
    "504": "The answer took too long.",
}
SWITCHED = ("/v1/files", "/v1/batches")  # not there unless the server keeps files
STRING, INTEGER, OBJECT = {"type": "string"}, {"type": "integer"}, {"type": "object"}
NULLABLE = {"type": ["string", "null"]}


def shape(**fields: Schema) -> Schema:
    """An object that has these, and may have more."""
    return {"type": "object", "properties": fields, "required": sorted(fields)}


def listed(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def const(value: str) -> Schema:
    return {"type": "string", "const": value}


ERRORS: dict[str, Schema] = {
    "Error": shape(error=shape(message=STRING, type=STRING, param=NULLABLE, code=NULLABLE)),
    "MessagesError": shape(type=const("error"), error=shape(type=STRING, message=STRING)),
    "GenerateError": shape(error=STRING, error_type=STRING),
    "OllamaError": shape(error=STRING),
}
USAGE = shape(prompt_tokens=INTEGER, completion_tokens=INTEGER, total_tokens=INTEGER)
MODEL = shape(id=STRING, object=const("model"), created=INTEGER, owned_by=STRING)
RESPONSE = shape(id=STRING, object=const("response"), status=STRING, output=listed(OBJECT), model=STRING)
GENERATED = shape(generated_text=STRING)
OLLAMA = shape(model=STRING, created_at=STRING, done={"type": "boolean"})
ANSWERS: dict[
    tuple[str, str], dict[str, Schema]
] = {  # of status 200, by media type; what streams says so by an empty schema
    ("get", "/v1/models"): {JSON: shape(object=const("list"), data=listed(MODEL))},
    ("get", "/v1/models/{name}"): {JSON: MODEL},
    ("post", "/v1/chat/completions"): {
        JSON: shape(id=STRING, object=const("chat.completion"), model=STRING, choices=listed(OBJECT), usage=USAGE),
        EVENTS: {},
    },
    ("post", "/v1/completions"): {
        JSON: shape(id=STRING, object=const("text_completion"), model=STRING, choices=listed(OBJECT), usage=USAGE),
        EVENTS: {},
    },
    ("post", "/tokenize"): {JSON: shape(count=INTEGER, max_model_len=INTEGER, tokens=listed(INTEGER))},
    ("post", "/detokenize"): {JSON: shape(prompt=STRING)},
    ("get", "/health"): {JSON: shape(status=STRING, detail=STRING)},
    ("get", "/ping"): {JSON: shape(status=STRING, detail=STRING)},
    ("get", "/metrics"): {TEXT: STRING},
    ("get", "/version"): {JSON: shape(version=STRING)},
    ("post", "/v1/responses"): {JSON: RESPONSE, EVENTS: {}},
    ("post", "/v1/responses/input_tokens"): {JSON: shape(object=STRING, input_tokens=INTEGER)},
    ("get", "/v1/responses/{response_id}"): {JSON: RESPONSE},
    ("delete", "/v1/responses/{response_id}"): {JSON: shape(id=STRING, object=STRING, deleted={"const": True})},
    ("post", "/v1/responses/{response_id}/cancel"): {JSON: RESPONSE},
    ("post", "/v1/messages"): {
        JSON: shape(id=STRING, type=const("message"), content=listed(OBJECT), usage=OBJECT),
        EVENTS: {},
    },
    ("post", "/v1/messages/count_tokens"): {JSON: shape(input_tokens=INTEGER)},
    ("post", "/generate"): {JSON: GENERATED},
    ("post", "/generate_stream"): {EVENTS: {}},
    ("post", "/"): {JSON: listed(GENERATED), EVENTS: {}},
    ("get", "/info"): {JSON: shape(model_id=STRING, max_input_tokens=INTEGER, version=STRING)},
    ("post", "/api/chat"): {JSON: OLLAMA, LINES: {}},
    ("post", "/api/generate"): {JSON: OLLAMA, LINES: {}},
    ("get", "/api/tags"): {JSON: shape(models=listed(shape(name=STRING, details=OBJECT)))},
    ("post", "/api/show"): {JSON: shape(details=OBJECT, model_info=OBJECT)},
    ("get", "/api/version"): {JSON: shape(version=STRING)},
}


def describe_truly(app: FastAPI) -> None:
    """From now on the app's document says what its routes take and answer."""
    generate, made = app.openapi, dict[str, Any]()

    def document() -> dict[str, Any]:
        if not made:
            made.update(true_document(generate()))
        return made

    app.openapi = document  # type: ignore[method-assign] # FastAPI's own way to replace it


def true_document(found: dict[str, Any]) -> dict[str, Any]:
    schemas: dict[str, Schema] = dict(ERRORS)
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            lift_definitions(operation, schemas)
            operation["responses"] = responses(method, path, operation)
    found["components"] = {
        "schemas": schemas,
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
        },
    }
    found["security"] = [{"bearer": []}, {"header": []}, {}]  # none where the server has no keys
    return found


def responses(method: str, path: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    given = ANSWERS.get((method, path))
    content = given and {media: {"schema": schema} if schema else {} for media, schema in given.items()}
    answered = {"description": "The answer.", "content": content} if content else operation["responses"]["200"]
    statuses = HEAD_STATUSES | (BODY_STATUSES if method == "post" else {})
    if "{" in path or path in SWITCHED:
        statuses |= {status: BODY_STATUSES[status] for status in ("400", "404")}
    error = {JSON: {"schema": {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in error_names(path)]}}}
    if path in ("/health", "/ping"):
        error[JSON]["schema"]["anyOf"].append(ANSWERS[method, path][JSON])
    failures = {status: {"description": text, "content": error} for status, text in sorted(statuses.items())}
    return {"200": answered, **failures}


def error_names(path: str) -> list[str]:
    """A dialect's own failure, and OpenAI's, which is what a request gets before its dialect is known."""
    own = {
        "/embed": "GenerateError",
        "/v1/messages": "MessagesError",
        "/generate": "GenerateError",
        "/info": "GenerateError",
        "/api/": "OllamaError",
    }
    names = [name for start, name in own.items() if path.startswith(start)]
    return [*names, *(["GenerateError"] if path == "/" else []), "Error"]


def lift_definitions(operation: dict[str, Any], schemas: dict[str, Schema]) -> None:
    """A body's own definitions to the document's, where its references can find them; under a name of the operation's."""
    for media in operation.get("requestBody", {}).get("content", {}).values():
        prefix = operation["operationId"]
        definitions = media["schema"].pop("$defs", {}) if isinstance(media.get("schema"), dict) else {}
        for name, schema in definitions.items():
            schemas[f"{prefix}.{name}"] = pointed(schema, prefix)
        if definitions:
            media["schema"] = pointed(media["schema"], prefix)


def pointed(schema: Any, prefix: str) -> Any:
    """The schema with its references led to where lift_definitions puts what they name."""
    if isinstance(schema, list):
        return [pointed(item, prefix) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: f"#/components/schemas/{prefix}.{value.removeprefix(REF)}"
        if key == "$ref" and isinstance(value, str) and value.startswith(REF)
        else pointed(value, prefix)
        for key, value in schema.items()
    }
