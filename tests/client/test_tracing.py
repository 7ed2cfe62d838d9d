"""Traces in memory: one a request, its phases in order, under the caller's span, without a word of what was said."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from tests.client.served import served
from tests.engines import LOADER, NAME, worker_path, write_engine
from tests.waiting import until

from ingot.client.embedded import EmbeddedBackend, EmbeddedOptions
from ingot.client.front import FrontOptions
from ingot.client.openai.gate import GateOptions
from ingot.client.openai.serve import ServeOptions
from ingot.client.tracing import Tracing, open_tracing
from ingot.runtime.supervisor import SupervisorOptions

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ASK = {"model": NAME, "prompt": "a secret prompt", "max_tokens": 5, "ignore_eos": True, "temperature": 0.5, "seed": 1}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    engine = write_engine(tmp_path_factory.mktemp("traced") / "engine", step_seconds=0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", worker_path())
        backend = EmbeddedBackend(engine, EmbeddedOptions(supervisor=SupervisorOptions(loader=LOADER)))
        gate = GateOptions(api_keys=["alice=k"])
        options = ServeOptions(gate=gate, front=FrontOptions(tracing=Tracing(provider)), log_level="warning")
        with served(backend, options) as url, httpx.Client(base_url=url, headers={"X-Api-Key": "k"}) as http:
            yield http, exporter


@pytest.fixture
def http(traced: tuple[httpx.Client, InMemorySpanExporter]) -> httpx.Client:
    traced[1].clear()
    return traced[0]


@pytest.fixture
def exporter(traced: tuple[httpx.Client, InMemorySpanExporter]) -> InMemorySpanExporter:
    return traced[1]


def spans_of(exporter: InMemorySpanExporter, count: int) -> dict[str, ReadableSpan]:
    until(lambda: len(exporter.get_finished_spans()) >= count)
    return {span.name: span for span in exporter.get_finished_spans()}


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_one_trace_under_its_callers(
    http: httpx.Client, exporter: InMemorySpanExporter, stream: bool
) -> None:
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=1", "X-Request-Id": "job-7"}
    assert http.post("/v1/completions", json=ASK | {"stream": stream}, headers=headers).status_code == 200
    spans = spans_of(exporter, 4)
    root = spans[f"text_completion {NAME}"]
    assert (root.kind, root.status.is_ok) == (SpanKind.SERVER, True)
    assert root.parent is not None
    assert (f"{root.context.trace_id:032x}", f"{root.parent.span_id:016x}") == (TRACE, SPAN)
    assert dict(root.attributes or {}) | {"gen_ai.response.id": ""} == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "ingot",
        "gen_ai.request.model": NAME,
        "gen_ai.response.model": NAME,
        "gen_ai.response.id": "",
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.top_k": 0,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.seed": 1,
        "gen_ai.usage.input_tokens": len("a secret prompt"),
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": (root.attributes or {})["gen_ai.usage.cache_read.input_tokens"],
        "gen_ai.response.finish_reasons": ("length",),
        "ingot.request_id": "job-7",
        "ingot.key": "alice",
    }
    phases = [spans[name] for name in ("queue", "prefill", "decode")]
    assert {span.parent.span_id for span in phases if span.parent} == {root.context.span_id}
    edges = [edge for span in phases for edge in times(span)]
    assert edges == sorted(edges)
    assert (edges[0], edges[-1]) == times(root)
    assert "secret" not in "".join(span.to_json() for span in spans.values())


def test_a_refusal_and_a_client_that_leaves_are_told(http: httpx.Client, exporter: InMemorySpanExporter) -> None:
    http.post("/v1/completions", json=ASK | {"prompt": [96_000]})
    refused = spans_of(exporter, 2)
    root = refused.pop(f"text_completion {NAME}")
    assert root.parent is None
    assert (root.attributes or {})["error.type"] == "invalid_request"
    assert list(refused) == ["queue"]
    exporter.clear()
    chat = {"model": NAME, "messages": [{"role": "user", "content": "x"}], "max_tokens": 400, "ignore_eos": True}
    with http.stream("POST", "/v1/chat/completions", json=chat | {"stream": True}) as reply:
        events = reply.iter_lines()
        assert json.loads(next(events).removeprefix("data: "))["object"] == "chat.completion.chunk"
    left = spans_of(exporter, 4)[f"chat {NAME}"]
    assert (left.attributes or {})["error.type"] == "client_gone"
    assert not left.status.is_ok


def test_an_exporter_that_reaches_nobody_harms_nobody() -> None:
    tracing = open_tracing("http://127.0.0.1:9/v1/traces")
    tracing.close()
