"""One row's sampling in plain Python floats, straight from the definitions: what the vectorized sampler must equal."""

from __future__ import annotations

import math

from ingot.runtime.params import SamplingParams


def edited(logits: list[float], params: SamplingParams, prompt: list[int], output: list[int], eos: int) -> list[float]:
    """Logits after penalties, logit_bias and min_tokens."""
    found = []
    for token, logit in enumerate(logits):
        if token in prompt or token in output:
            logit = logit / params.repetition_penalty if logit > 0 else logit * params.repetition_penalty
        count = output.count(token)
        logit -= params.frequency_penalty * count + params.presence_penalty * (count > 0)
        found.append(logit + params.logit_bias.get(token, 0.0))
    if len(output) < params.min_tokens:
        for token in (*params.stop_token_ids, *(() if params.ignore_eos else (eos,))):
            found[token] = -math.inf
    return found


def distribution(logits: list[float], params: SamplingParams) -> list[tuple[int, float]]:
    """(token, probability) that min_p, top_k and top_p leave at the temperature, best first where any of them is set."""
    warm = [logit / params.temperature for logit in logits]
    pairs = list(enumerate(softmax(warm)))
    if not (params.top_k or params.top_p < 1 or params.min_p):
        return pairs
    pairs.sort(key=lambda pair: -pair[1])
    pairs = [pair for pair in pairs if pair[1] >= params.min_p * pairs[0][1]]
    pairs = normalized(pairs[: params.top_k or None])
    kept: list[tuple[int, float]] = []
    mass = 0.0
    for pair in pairs:
        if mass >= params.top_p and kept:
            break
        kept.append(pair)
        mass += pair[1]
    return normalized(kept)


def softmax(logits: list[float]) -> list[float]:
    best = max(logits)
    weights = [math.exp(logit - best) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def normalized(pairs: list[tuple[int, float]]) -> list[tuple[int, float]]:
    total = sum(mass for _, mass in pairs)
    return [(token, mass / total) for token, mass in pairs]
