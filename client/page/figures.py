"""What the page shows of a model, from its readings of the last minute: rates, shares, percentiles. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from ingot.client.page.readings import Reading

RATE_SECONDS = 3.0  # windows, as long as their figure needs to stand still enough to be read
LATENCY_SECONDS = 15.0
PREFIX_SECONDS = 60.0
KEPT_SECONDS = 60.0

Moment = tuple[float, Reading]  # monotonic seconds


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, interpolated within a histogram's bucket as Prometheus does it."""

    p50: float
    p95: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """None where nothing happened in the window that would make the figure."""

    output_tokens_per_second: float | None
    prompt_tokens_per_second: float | None
    running: int
    waiting: int
    kv_use: float | None  # 0 to 1
    prefix_hit_rate: float | None  # 0 to 1
    preemptions: int  # since the engine was loaded
    finished: int
    ttft: Percentiles | None
    itl: Percentiles | None
    e2e: Percentiles | None


def figures_of(moments: Sequence[Moment]) -> Figures:
    """Of one model; `moments` in order of time, the last of them now."""
    values = moments[-1][1].values
    queries = gained(moments, "prefix_cache_queries", PREFIX_SECONDS)
    hits = gained(moments, "prefix_cache_hits", PREFIX_SECONDS)
    return Figures(
        output_tokens_per_second=rate(moments, "generation_tokens"),
        prompt_tokens_per_second=rate(moments, "prompt_tokens"),
        running=int(values.get("num_requests_running", 0)),
        waiting=int(values.get("num_requests_waiting", 0)),
        kv_use=values.get("kv_cache_usage_perc"),
        prefix_hit_rate=hits / queries if queries else None,
        preemptions=int(values.get("num_preemptions", 0)),
        finished=int(values.get("request_success", 0)),
        ttft=percentiles(moments, "time_to_first_token_seconds"),
        itl=percentiles(moments, "inter_token_latency_seconds"),
        e2e=percentiles(moments, "e2e_request_latency_seconds"),
    )


def since(moments: Sequence[Moment], seconds: float) -> Moment:
    """The oldest moment of the window; a little slack, for clocks tick unevenly."""
    bound = moments[-1][0] - seconds - 0.5
    return next(moment for moment in moments if moment[0] >= bound)


def gained(moments: Sequence[Moment], counter: str, seconds: float) -> float:
    return difference(moments[-1][1].values.get(counter, 0), since(moments, seconds)[1].values.get(counter, 0))


def rate(moments: Sequence[Moment], counter: str) -> float | None:
    elapsed = moments[-1][0] - since(moments, RATE_SECONDS)[0]
    return gained(moments, counter, RATE_SECONDS) / elapsed if elapsed else None


def difference(now: float, then: float) -> float:
    """Of a counter, which begins again at zero where its process did."""
    return now - then if now >= then else now


def percentiles(moments: Sequence[Moment], histogram: str) -> Percentiles | None:
    now, then = moments[-1][1].buckets, since(moments, LATENCY_SECONDS)[1].buckets
    if histogram not in now:
        return None
    old = then.get(histogram, {})
    counts = [(bound, difference(count, old.get(bound, 0))) for bound, count in sorted(now[histogram].items())]
    if counts[-1][1] <= 0:
        return None
    return Percentiles(p50=quantile(counts, 0.5), p95=quantile(counts, 0.95))


def quantile(counts: Sequence[tuple[float, float]], share: float) -> float:
    """`counts`: upper bound and observations at or below it, rising, the last bound infinite."""
    wanted = share * counts[-1][1]
    low, below = 0.0, 0.0
    for bound, count in counts:
        if count >= wanted:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (wanted - below) / (count - below) if count > below else bound
        low, below = bound, count
    return low
