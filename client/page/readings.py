"""A backend's Prometheus text as numbers by model. Knows the text format and its labels, not what a figure means."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field

from ingot.client.metrics import PREFIX

SAMPLE = re.compile(rf"^{PREFIX}(\w+)\{{(.*)\}} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Reading:
    """One model's metrics at one moment, summed over all labels but the model's and a bucket's bound."""

    values: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    buckets: dict[str, dict[float, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))


def read_metrics(text: str) -> dict[str, Reading]:
    """By model name. Buckets map an upper bound to how many observations lie at or below it."""
    found: dict[str, Reading] = defaultdict(Reading)
    for name, written, value in SAMPLE.findall(text):
        labels = dict(LABEL.findall(written))
        reading = found[unescaped(labels.get("model_name", ""))]
        if "le" in labels:
            reading.buckets[name.removesuffix("_bucket")][float(labels["le"])] += float(value)
        else:
            reading.values[name.removesuffix("_total")] += float(value)
    return dict(found)


def unescaped(label: str) -> str:
    return ESCAPED.sub(lambda match: "\n" if match[1] == "n" else match[1], label)
