"""One OpenTelemetry trace a request: queue, prefill and decode, under the caller's own span where it names one.

Attributes are those of the semantic conventions for generative AI; no text of prompts or answers is among them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

from ingot import __version__
from ingot.errors import DependencyError, IngotError
from ingot.runtime.logs import MARKS
from ingot.runtime.request import Chunk, GenerateRequest

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

EXPORT_SECONDS = 5
SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed")


class Tracing:
    """Writes a request's spans when it ends: their times are known by then, and nothing is held open meanwhile."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("ingot", __version__)

    async def follow(
        self, request: GenerateRequest, chunks: AsyncGenerator[Chunk, None], parent: Mapping[str, str]
    ) -> AsyncGenerator[Chunk, None]:
        """The same chunks. `parent` has W3C's traceparent and tracestate, as the caller sent them."""
        times = Times()
        error: str | None = None
        try:
            async with aclosing(chunks) as own:
                async for chunk in own:
                    times.take(chunk)
                    yield chunk
        except IngotError as failure:
            error = failure.code
            raise
        except (GeneratorExit, asyncio.CancelledError):
            error = None if times.is_whole(request.params.n) else "client_gone"
            raise
        finally:
            self._write(request, times, parent, error)

    def close(self) -> None:
        """Sends what is not sent yet. Blocks for some seconds where nobody takes it."""
        self._provider.force_flush(EXPORT_SECONDS * 1000)
        self._provider.shutdown()

    def _write(self, request: GenerateRequest, times: Times, parent: Mapping[str, str], error: str | None) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        operation = "text_completion" if request.prompt.messages is None else "chat"
        span = self._tracer.start_span(
            f"{operation} {request.model}",
            TraceContextTextMapPropagator().extract(dict(parent)),
            SpanKind.SERVER,
            attributes=request_attributes(request, operation),
            start_time=times.began,
        )
        span.set_attributes(times.attributes())
        if error is not None:
            span.set_attribute("error.type", error)
            span.set_status(Status(StatusCode.ERROR, error))
        inner = set_span_in_context(span)
        for name, start, end in times.phases():
            part: Span = self._tracer.start_span(name, inner, start_time=start)
            part.end(end)
        span.end(times.ended())


class Times:
    """What a request's chunks say about it. Nanoseconds of the epoch."""

    def __init__(self) -> None:
        self.began = time.time_ns()
        self._scheduled = self._first = self._last = 0
        self._prompt = self._cached = self._tokens = 0
        self._reasons: dict[int, str] = {}

    def take(self, chunk: Chunk) -> None:
        self._last = time.time_ns()
        if not self._first and chunk.token_ids:
            self._first = self._last
            waited = 0.0 if chunk.queue_seconds is None else chunk.queue_seconds
            self._scheduled = min(self.began + int(waited * 1e9), self._first)
            self._prompt = len(chunk.prompt_token_ids or ())
        self._tokens += len(chunk.token_ids)
        if chunk.finish_reason is not None:
            self._reasons[chunk.index] = chunk.finish_reason
            self._cached = max(self._cached, chunk.usage.cached_tokens if chunk.usage else 0)

    def is_whole(self, sequences: int) -> bool:
        return len(self._reasons) == sequences

    def ended(self) -> int:
        return self._last if self._reasons else time.time_ns()

    def phases(self) -> list[tuple[str, int, int]]:
        """Name, start and end of each that was reached."""
        if not self._first:
            return [("queue", self.began, self.ended())]
        return [
            ("queue", self.began, self._scheduled),
            ("prefill", self._scheduled, self._first),
            ("decode", self._first, self._last),
        ]

    def attributes(self) -> dict[str, AttributeValue]:
        found: dict[str, AttributeValue] = {"gen_ai.usage.output_tokens": self._tokens}
        if self._first:
            found["gen_ai.usage.input_tokens"] = self._prompt
            found["gen_ai.usage.cache_read.input_tokens"] = self._cached
        if self._reasons:
            found["gen_ai.response.finish_reasons"] = [reason for _, reason in sorted(self._reasons.items())]
        return found


def request_attributes(request: GenerateRequest, operation: str) -> dict[str, AttributeValue]:
    params = request.params
    found: dict[str, AttributeValue] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "ingot",
        "gen_ai.request.model": request.model,
        "gen_ai.response.model": request.model,
        "gen_ai.response.id": request.request_id,
    }
    found |= {f"gen_ai.request.{name}": value for name in SAMPLING if (value := getattr(params, name)) is not None}
    if params.n != 1:
        found["gen_ai.request.choice.count"] = params.n
    return found | {f"ingot.{name}": value for name, value in MARKS.get().items()}


def open_tracing(endpoint: str) -> Tracing:
    """To a collector that takes OTLP over HTTP, as http://localhost:4318/v1/traces. Raises DependencyError."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise DependencyError(
            "OpenTelemetry is not installed.", mend="Install it with: pip install 'ingot[otel]'."
        ) from error
    resource = Resource.create({"service.name": "ingot", "service.version": __version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=EXPORT_SECONDS)))
    return Tracing(provider)
