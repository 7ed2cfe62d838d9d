"""What a backend measures, under the names vLLM's dashboards know with the prefix `ingot:`. Knows Prometheus, no HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ingot.runtime.messages import Stats

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


class Metrics:
    """Histograms observed by the backend as chunks pass; gauges and counters read from the executor's stats when asked."""

    def __init__(self, model: str, stats: Callable[[], Stats | None]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(StatsCollector(model, stats))
        self.finished = Counter(
            f"{PREFIX}request_success",
            "Sequences finished.",
            ["model_name", "finished_reason"],
            registry=self._registry,
        )
        self._model = model
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", FIRST_TOKEN_BUCKETS
        )
        self.next_token = self._histogram(
            "inter_token_latency_seconds", "Between tokens of a sequence.", NEXT_TOKEN_BUCKETS
        )
        self.request = self._histogram(
            "e2e_request_latency_seconds", "From arrival to the last token.", REQUEST_BUCKETS
        )
        self.queue = self._histogram("request_queue_time_seconds", "From arrival to the executor.", REQUEST_BUCKETS)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        made = Histogram(f"{PREFIX}{name}", text, ["model_name"], buckets=buckets, registry=self._registry)
        return made.labels(self._model)

    def count_finish(self, reason: str) -> None:
        self.finished.labels(self._model, reason).inc()

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
    """The times of one request."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._arrived = time.monotonic()
        self._last: dict[int, float] = {}  # by sequence

    def queued(self) -> None:
        self._metrics.queue.observe(time.monotonic() - self._arrived)

    def tokens(self, index: int, count: int, finish_reason: str | None) -> None:
        now = time.monotonic()
        if count:
            last = self._last.get(index)
            if last is not None:
                self._metrics.next_token.observe((now - last) / count)
            elif not self._last:
                self._metrics.first_token.observe(now - self._arrived)
            self._last[index] = now
        if finish_reason is not None:
            self._metrics.request.observe(now - self._arrived)
            self._metrics.count_finish(finish_reason)


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
