"""What a backend measures, under the names vLLM's dashboards know with the prefix `ingot:`. Knows Prometheus, no HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ingot.errors import IngotError
from ingot.runtime.messages import Stats
from ingot.runtime.request import Chunk

PREFIX = "ingot:"
FIRST_TOKEN_BUCKETS = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
)
NEXT_TOKEN_BUCKETS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.015,
    0.02,
    0.03,
    0.04,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    1,
    2.5,
    5,
    10,
)
REQUEST_BUCKETS = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)
TOKEN_BUCKETS = tuple(float(1 << power) for power in range(18))


class Metrics:
    """Histograms observed by the backend as chunks pass; gauges and counters read from the executor's stats when asked."""

    def __init__(self, model: str, stats: Callable[[], Stats | None]) -> None:
        self._model = model
        self._registry = CollectorRegistry()
        self._registry.register(StatsCollector(model, stats))
        self._taken = self._counter("requests", "Requests taken.")
        self._finished = self._counter("request_success", "Sequences finished.", "finished_reason")
        self._failed = self._counter("request_failure", "Requests that ended with an error.", "code")
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", FIRST_TOKEN_BUCKETS
        ).labels(model)
        self.next_token = self._histogram(
            "inter_token_latency_seconds", "Between tokens of a sequence.", NEXT_TOKEN_BUCKETS
        ).labels(model)
        self.mean_token = self._histogram(
            "request_time_per_output_token_seconds", "Mean of a sequence, after its first token.", NEXT_TOKEN_BUCKETS
        ).labels(model)
        self.queue = self._histogram(
            "request_queue_time_seconds", "From arrival to the first step that runs it.", REQUEST_BUCKETS
        ).labels(model)
        self.prefill = self._histogram(
            "request_prefill_time_seconds", "From the first step to the first token.", REQUEST_BUCKETS
        ).labels(model)
        self.prompt = self._histogram("request_prompt_tokens", "Tokens of a prompt.", TOKEN_BUCKETS).labels(model)
        end = "finished_reason"
        self._decode = self._histogram(
            "request_decode_time_seconds", "From the first token to the last.", REQUEST_BUCKETS, end
        )
        self._inference = self._histogram(
            "request_inference_time_seconds", "From the first step to the last token.", REQUEST_BUCKETS, end
        )
        self._request = self._histogram(
            "e2e_request_latency_seconds", "From arrival to the last token.", REQUEST_BUCKETS, end
        )
        self._generated = self._histogram("request_generation_tokens", "Tokens of an answer.", TOKEN_BUCKETS, end)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}{name}", text, ["model_name", *labels], registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"{PREFIX}{name}", text, ["model_name", *labels], buckets=buckets, registry=self._registry)

    def count_taken(self) -> None:
        self._taken.labels(self._model).inc()

    def count_failure(self, code: str) -> None:
        self._failed.labels(self._model, code).inc()

    def finish(self, reason: str, *, whole: float, inference: float, decode: float, tokens: int) -> None:
        """A sequence's last token: its times in seconds, and how many tokens it has."""
        self._finished.labels(self._model, reason).inc()
        self._request.labels(self._model, reason).observe(whole)
        self._inference.labels(self._model, reason).observe(inference)
        self._decode.labels(self._model, reason).observe(decode)
        self._generated.labels(self._model, reason).observe(tokens)
        if tokens > 1:
            self.mean_token.observe(decode / (tokens - 1))

    def collect(self) -> Iterable[Metric]:
        return self._registry.collect()

    def text(self) -> bytes:
        return generate_latest(self._registry)


class Union:
    """Several models' metrics as one: each name comes once, with every model's samples."""

    def __init__(self, parts: Iterable[Metrics]) -> None:
        self._parts = list(parts)

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for part in self._parts:
            for family in part.collect():
                families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                families[family.name].samples += family.samples
        yield from families.values()


def text_of(parts: Iterable[Metrics]) -> bytes:
    return generate_latest(Union(parts))


class Stopwatch:
    """The times of one request. What it waits before the executor has it, and what it waits there, are both its queue."""

    def __init__(self, metrics: Metrics) -> None:
        metrics.count_taken()
        self._metrics = metrics
        self._arrived = self._sent = time.monotonic()
        self._begun: float | None = None  # when the first step ran it
        self._first: dict[int, float] = {}  # when each sequence had its first token, and its newest
        self._last: dict[int, float] = {}

    def sent(self) -> None:
        """The executor has it."""
        self._sent = time.monotonic()

    def take(self, chunk: Chunk) -> None:
        now = time.monotonic()
        if chunk.token_ids:
            last = self._last.get(chunk.index)
            if last is not None:
                self._metrics.next_token.observe((now - last) / len(chunk.token_ids))
            else:
                self._begin(chunk, now)
            self._last[chunk.index] = now
        if chunk.finish_reason is not None:
            first = self._first.get(chunk.index, now)
            self._metrics.finish(
                chunk.finish_reason,
                whole=now - self._arrived,
                inference=now - (self._begun or now),
                decode=now - first,
                tokens=chunk.usage.completion_tokens if chunk.usage else 0,
            )

    def failed(self, error: IngotError) -> None:
        self._metrics.count_failure(error.code)

    def _begin(self, chunk: Chunk, now: float) -> None:
        """A sequence's first token; the request's, where it is the first of all."""
        if not self._first:
            self._metrics.first_token.observe(now - self._arrived)
            if chunk.prompt_token_ids is not None:
                self._metrics.prompt.observe(len(chunk.prompt_token_ids))
            if chunk.queue_seconds is not None:
                self._begun = min(self._sent + chunk.queue_seconds, now)
                self._metrics.queue.observe(self._begun - self._arrived)
                self._metrics.prefill.observe(now - self._begun)
        self._first[chunk.index] = now


class StatsCollector:
    """The executor's counters and gauges, as of its last heartbeat."""

    def __init__(self, model: str, stats: Callable[[], Stats | None]) -> None:
        self._model, self._stats = model, stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        if stats is None:
            return
        used = 1 - (stats.pages_free + stats.pages_cached) / stats.pages_total if stats.pages_total else 0.0
        gauges = {
            "num_requests_running": ("Sequences running.", stats.running),
            "num_requests_waiting": ("Sequences waiting.", stats.waiting),
            "kv_cache_usage_perc": ("Part of the KV pages held by running sequences, 0 to 1.", used),
        }
        counters = {
            "prompt_tokens": ("Prompt tokens taken.", stats.prompt_tokens),
            "generation_tokens": ("Tokens generated.", stats.generation_tokens),
            "num_preemptions": ("Sequences preempted.", stats.preemptions),
            "prefix_cache_queries": ("Prompt tokens looked up in the prefix cache.", stats.prefix_queries),
            "prefix_cache_hits": ("Prompt tokens found in the prefix cache.", stats.prefix_hits),
        }
        for name, (text, value) in gauges.items():
            gauge = GaugeMetricFamily(f"{PREFIX}{name}", text, labels=["model_name"])
            gauge.add_metric([self._model], value)
            yield gauge
        for name, (text, value) in counters.items():
            counter = CounterMetricFamily(f"{PREFIX}{name}", text, labels=["model_name"])
            counter.add_metric([self._model], value)
            yield counter
