"""An engine compared with the model it was made from, on held-out text: how much worse, where, and by which layer.

Knows the two models and the figures; the verdict is quality.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ingot.builder.corpus import Corpus, token_sequences
from ingot.builder.layerwise import LayerwiseModel, OriginalWeights, PackedWeights
from ingot.builder.pack import Packer
from ingot.builder.resolve import Job
from ingot.plugins.dtypes import torch_dtype

TEXT_LENGTH = 512
INDEPENDENT_BYTES = 2 << 30  # up to this size an unquantized engine is compared with transformers' own model


class Compared(Protocol):
    """What is asked of both sides."""

    residuals: list[Tensor]  # per text (T, C), after the last step

    def step(self, layer: int) -> None: ...

    def logits(self, index: int) -> Tensor: ...


def compare(job: Job, weights: Sequence[Path], corpus: Corpus, advance: Callable[[int], None]) -> dict[str, Any]:
    """The figures of packed `weights`. Deterministic: the same weights and text give the same figures.

    An unquantized engine is measured against transformers' model where that fits, a quantized one against our decoder on
    the unquantized checkpoint in float32. Of a checkpoint that came quantized there is no original: its own weights,
    dequantized, with exact inputs and KV cache, stand in for it.
    """
    device = "cuda" if job.target != "cpu" and torch.cuda.is_available() else "cpu"
    length = min(TEXT_LENGTH, job.limits.max_model_len)
    texts = token_sequences(corpus, job.checkpoint.folder, length=length, total=job.recipe.verify_tokens)
    with torch.inference_mode():
        name, reference = original(job, weights, texts, device)
        source = PackedWeights.open(weights, job.config)
        dtype, kv_dtype = torch_dtype(job.dtype), torch_dtype(job.kv_dtype)
        engine = LayerwiseModel(source, job.config, texts, dtype=dtype, kv_dtype=kv_dtype, device=device)
        errors = []
        for layer in range(job.config.num_layers):
            reference.step(layer)
            engine.step(layer)
            errors.append(relative_error(engine.residuals, reference.residuals))
            advance(1)
        return {
            "reference": name,
            "corpus": corpus.origin,
            **token_figures(texts, engine, reference),
            "layer_errors": errors,
        }


def original(job: Job, weights: Sequence[Path], texts: Sequence[Sequence[int]], device: str) -> tuple[str, Compared]:
    """What the engine is measured against, and what to call it."""
    exact = torch.float32
    if job.declared.quant != "none":
        source = PackedWeights.open(weights, job.config, exact=True)
        model = LayerwiseModel(source, job.config, texts, dtype=exact, kv_dtype=exact, device=device)
        return "the checkpoint's own weights, dequantized (it came quantized)", model
    if job.quant == "none" and job.checkpoint.nbytes <= INDEPENDENT_BYTES:
        from ingot.builder.hf_reference import TransformersModel

        return "transformers' model in float32", TransformersModel(job.checkpoint.folder, texts, device)
    packer = Packer(checkpoint=job.checkpoint, config=job.config, dtype=exact)
    model = LayerwiseModel(OriginalWeights(packer), job.config, texts, dtype=exact, kv_dtype=exact, device=device)
    return "the unquantized checkpoint in float32", model


def relative_error(found: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """|found - truth| / |truth| over all texts together (Frobenius norms)."""
    off = sum(
        float((a.float() - b.float()).square().sum(dtype=torch.float64)) for a, b in zip(found, truth, strict=True)
    )
    size = sum(float(b.float().square().sum(dtype=torch.float64)) for b in truth)
    return float((off / size) ** 0.5) if size else 0.0


def token_figures(texts: Sequence[Sequence[int]], engine: Compared, reference: Compared) -> dict[str, Any]:
    """Perplexities over the texts' own next tokens; KL(reference || engine) and greedy agreement over every position."""
    loss = loss_reference = kl = 0.0
    agreed = positions = predicted = 0
    for index, text in enumerate(texts):
        ours, theirs = engine.logits(index).log_softmax(-1), reference.logits(index).log_softmax(-1)
        targets = torch.tensor(text[1:], device=ours.device).unsqueeze(1)
        loss -= float(ours[:-1].gather(1, targets).sum(dtype=torch.float64))
        loss_reference -= float(theirs[:-1].gather(1, targets).sum(dtype=torch.float64))
        kl += float((theirs.exp() * (theirs - ours)).sum(dtype=torch.float64))
        agreed += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        positions += len(text)
        predicted += len(text) - 1
    ppl, ppl_reference = perplexity(loss / predicted), perplexity(loss_reference / predicted)
    return {
        "tokens": positions,
        "ppl": ppl,
        "ppl_reference": ppl_reference,
        "ppl_ratio": ppl / ppl_reference,
        "kl": kl / positions,
        "agreement": agreed / positions,
    }


def perplexity(mean_loss: float) -> float:
    return float(torch.tensor(mean_loss, dtype=torch.float64).exp())
