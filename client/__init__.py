"""Asking an engine: the gRPC client library and the OpenAI-compatible server. Imports neither torch nor transformers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingot.client.generation import Generation
    from ingot.client.grpc_async import AsyncClient
    from ingot.client.grpc_sync import Client
    from ingot.client.grpc_wire import ClientOptions, ModelState
    from ingot.client.stream_async import AsyncStream
    from ingot.client.stream_sync import Stream
    from ingot.runtime.params import SamplingParams
    from ingot.runtime.request import Chunk, Prompt

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Chunk",
    "Client",
    "ClientOptions",
    "Generation",
    "ModelState",
    "Prompt",
    "SamplingParams",
    "Stream",
]

# gRPC and numpy come with the first of these that is used, not with `import ingot.client`.
HOMES = {
    "AsyncClient": "ingot.client.grpc_async",
    "AsyncStream": "ingot.client.stream_async",
    "Chunk": "ingot.runtime.request",
    "Client": "ingot.client.grpc_sync",
    "ClientOptions": "ingot.client.grpc_wire",
    "Generation": "ingot.client.generation",
    "ModelState": "ingot.client.grpc_wire",
    "Prompt": "ingot.runtime.request",
    "SamplingParams": "ingot.runtime.params",
    "Stream": "ingot.client.stream_sync",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)
