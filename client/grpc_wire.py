"""Triton's gRPC messages to calls, replies and errors, and back. Opens no connection; imports nothing heavier than protobuf."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

import grpc
import msgspec
from tritonclient.grpc import service_pb2

from ingot.errors import (
    DeadlineError,
    EngineError,
    ExecutorDiedError,
    IngotError,
    RequestError,
    UnavailableError,
    UnknownModelError,
)
from ingot.runtime.calls import AbortCall, Call, Embed, Generate, Reply, error_from_text
from ingot.runtime.params import SamplingParams
from ingot.runtime.request import GenerateRequest, Prompt

ADMIN_HEADER = "triton-grpc-protocol-ingot-admin"
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # gRPC's own two minutes outlast any restart
]
PROBE_SECONDS = 5.0

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Reply).decode

PromptLike = str | list[int] | list[dict[str, Any]] | Prompt


class ClientOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a client connects and how long it tries."""

    timeout: float = 600.0  # seconds until a request that names no deadline is given up
    retries: int = 3  # further attempts of a request that gave nothing yet
    backoff: float = 0.2  # seconds before the first of them; doubles, with jitter
    outage: float = 0.0  # seconds to go on trying, beyond `retries`, while the server or the model is away
    drain: float = 5.0  # seconds a cancelled stream may take to end before the connection's stream is cut
    admin_key: str | None = None  # loads, unloads and lists models
    tls: bool = False
    root_certificates: bytes | None = None  # PEM; the system's where None
    certificate: bytes | None = None  # PEM, to show to a server that asks for one, and its key
    private_key: bytes | None = None


class ModelState(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the repository's index."""

    name: str
    version: str
    state: str  # READY | UNAVAILABLE | LOADING | UNLOADING, or empty for what was never loaded
    reason: str


def generate_call(
    model: str,
    prompt: PromptLike,
    params: SamplingParams | None,
    *,
    request_id: str | None,
    cache_salt: str | None,
    priority: int,
) -> Generate:
    """The call for a prompt in any of its forms: text, token ids, chat messages, or a whole Prompt."""
    request = GenerateRequest(
        request_id=request_id or uuid.uuid4().hex,
        model=model,
        prompt=as_prompt(prompt),
        params=params or SamplingParams(),
        cache_salt=cache_salt,
        priority=priority,
    )
    return Generate(request=request)


def as_prompt(prompt: PromptLike) -> Prompt:
    if isinstance(prompt, Prompt):
        return prompt
    if isinstance(prompt, str):
        return Prompt(text=prompt)
    if prompt and all(isinstance(message, dict) for message in prompt):
        return Prompt(messages=prompt)  # type: ignore[arg-type]
    if all(isinstance(token, int) for token in prompt):
        return Prompt(token_ids=prompt)  # type: ignore[arg-type]
    raise RequestError(
        "The prompt mixes kinds.", mend="Give a text, a list of token ids, or a list of messages.", param="prompt"
    )


def infer_request(model: str, version: str, call: Call, request_id: str) -> Any:
    """A ModelInferRequest whose one tensor is the call as JSON. Responses carry its id."""
    body = _encode(call)
    message = service_pb2.ModelInferRequest(model_name=model, model_version=version, id=request_id)
    tensor = message.inputs.add()
    tensor.name, tensor.datatype = "request", "BYTES"
    tensor.shape.extend([1, 1])
    message.raw_input_contents.append(len(body).to_bytes(4, "little") + body)
    return message


def no_request() -> Any:
    """What Triton refuses before it looks for a model."""
    return service_pb2.ModelInferRequest()


def call_id(call: Call) -> str:
    return call.request.request_id if isinstance(call, Generate | Embed) else uuid.uuid4().hex


def abort_request(model: str, version: str, request_id: str) -> Any:
    return infer_request(model, version, AbortCall(request_id=request_id), uuid.uuid4().hex)


def read_reply(message: Any, model: str) -> Reply:
    """The reply in a ModelStreamInferResponse. Raises the IngotError that it carries."""
    if message.error_message:
        raise error_of(message.error_message, model)
    response = message.infer_response
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if tensor.name == "reply":
            return _decode(raw[4:])
    return Reply()


def is_final(message: Any) -> bool:
    return bool(message.infer_response.parameters["triton_final_response"].bool_param)


def error_of(text: str, model: str) -> IngotError:
    """The error behind Triton's own sentences, or the one that the model wrote."""
    found = error_from_text(text)
    if found is not None:
        return found
    if "unknown model" in text and "no available versions" not in text and "not at ready state" not in text:
        return UnknownModelError(f"Triton has no {model!r}: {text}.", mend="Client.models() lists what there is.")
    if "no available versions" in text or "not at ready state" in text or "is not ready" in text:
        return UnavailableError(f"The model {model!r} is not loaded.", mend="Load it, or try again shortly.")
    if "Stub process" in text or "stub process" in text:
        return ExecutorDiedError(f"The process of {model!r} died: {text}", mend="Its supervisor reloads it; try again.")
    return IngotError(f"Triton could not answer: {text}", mend="The server's log says more.")


def error_of_rpc(error: grpc.RpcError, model: str = "") -> IngotError:
    """The error behind a failed gRPC call."""
    code, details = error.code(), error.details() or ""
    if "restricted" in details:
        return RequestError(
            "The server asks for a key for this.", mend="Give it: Client(address, admin_key=...).", param="admin_key"
        )
    if code == grpc.StatusCode.UNAVAILABLE:
        return UnavailableError(
            f"The server cannot be reached: {details}.", mend="See that it runs, and on that address."
        )
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return deadline_error(model)
    if "load" in details:
        return EngineError(details.strip().rstrip(";").strip(), mend="The version that served before goes on serving.")
    return error_of(details, model)


def deadline_error(model: str) -> DeadlineError:
    return DeadlineError(
        f"{model or 'The server'} did not finish in time.", mend="Give a larger timeout, or ask for fewer tokens."
    )


def credentials(options: ClientOptions) -> grpc.ChannelCredentials | None:
    """Raises RequestError where only one of certificate and key is given, or any of them without tls."""
    given = (options.root_certificates, options.certificate, options.private_key)
    if (options.certificate is None) != (options.private_key is None) or (any(given) and not options.tls):
        raise RequestError(
            "The TLS options do not fit together.", mend="Set tls, and give a certificate together with its key."
        )
    root, certificate, key = given
    return grpc.ssl_channel_credentials(root, key, certificate) if options.tls else None


def metadata(options: ClientOptions) -> list[tuple[str, str]]:
    return [(ADMIN_HEADER, options.admin_key)] if options.admin_key else []


def model_states(models: Iterable[Any]) -> list[ModelState]:
    return [ModelState(name=row.name, version=row.version, state=row.state, reason=row.reason) for row in models]
