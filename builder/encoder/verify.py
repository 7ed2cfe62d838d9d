"""An encoder engine compared with transformers' own model of the checkpoint, on held-out text: by the vectors it would serve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ingot.builder.corpus import Corpus, token_sequences
from ingot.builder.encoder.job import EncoderJob
from ingot.builder.hush import hushed
from ingot.builder.quality import worst_layers
from ingot.builder.verify import TEXT_LENGTH, relative_error
from ingot.errors import QualityError
from ingot.network.encoder import EncoderBatch, encoder_input, encoder_layer
from ingot.network.encoder_config import EncoderConfig
from ingot.plugins.dtypes import torch_dtype
from ingot.plugins.encoder.load import read_encoder_tensors
from ingot.plugins.encoder.reference import EncoderReferenceOps
from ingot.plugins.pooling import pooled

# The least cosine of any text's vector with transformers' own. A sound engine in float32 differs in the seventh digit, one
# in bfloat16 or float16 in the fourth; a wrong mask, norm or activation in the first.
LEAST_COSINE = {"float32": 0.99999, "bfloat16": 0.99, "float16": 0.999}


def compare_encoder(
    job: EncoderJob, weights: Sequence[Path], corpus: Corpus, advance: Callable[[int], None]
) -> dict[str, Any]:
    """The figures of packed `weights`. Deterministic: the same weights and text give the same figures."""
    length = min(TEXT_LENGTH, job.limits.max_model_len)
    texts = token_sequences(corpus, job.checkpoint.folder, length=length, total=job.recipe.verify_tokens)
    with torch.inference_mode():
        truth = transformers_states(job.checkpoint.folder, texts)
        found = engine_states(job, weights, texts)
        errors = []
        for layer in range(1, job.config.num_layers + 1):
            errors.append(relative_error([one[layer] for one in found], [one[layer] for one in truth]))
            advance(1)
        pooling = job.embedding.pooling
        cosines = [
            float(functional.cosine_similarity(pooled(ours[-1], pooling), pooled(theirs[-1], pooling), dim=0))
            for ours, theirs in zip(found, truth, strict=True)
        ]
    return {
        "reference": "transformers' model in float32",
        "corpus": corpus.origin,
        "tokens": sum(map(len, texts)),
        "texts": len(texts),
        "cosine": min(cosines),
        "cosine_mean": sum(cosines) / len(cosines),
        "layer_errors": errors,
    }


def judge_encoder(figures: dict[str, Any], dtype: str, *, allow_loss: bool) -> dict[str, Any]:
    """The manifest's quality record: figures, bounds and verdict. Raises QualityError past the bound. NaN is past it."""
    least = LEAST_COSINE[dtype]
    past = [] if figures["cosine"] >= least else [f"least cosine {figures['cosine']:.6f} is below {least}"]
    if past and not allow_loss:
        raise QualityError(
            f"The engine strays too far from {figures['reference']}: {past[0]}. {worst_layers(figures)}",
            mend="Use --dtype float32, or keep it with --allow-quality-loss.",
        )
    return {**figures, "bounds": {"cosine": least}, "within_bounds": not past, "breaches": past}


def transformers_states(folder: Path, texts: Sequence[Sequence[int]]) -> list[list[Tensor]]:
    """Of each text, the hidden states (T, C) before the first layer and after each."""
    from transformers import AutoModel

    with hushed():
        model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        outputs = [model(torch.tensor([list(text)]), output_hidden_states=True) for text in texts]
    return [[state[0] for state in output.hidden_states] for output in outputs]


def engine_states(job: EncoderJob, weights: Sequence[Path], texts: Sequence[Sequence[int]]) -> list[list[Tensor]]:
    """The same of the engine, computed by its own ops, layer by layer."""
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    for path in (path for folder in weights for path in sorted(folder.glob("*.safetensors"))):
        tensors |= load_file(path)
    ops = EncoderReferenceOps(
        job.config, read_encoder_tensors(tensors, job.config), dtype=torch_dtype(job.recipe.dtype)
    )
    found = []
    for text in texts:
        batch = batch_of(text, job.config)
        states = [encoder_input(ops, batch)]
        for layer in range(job.config.num_layers):
            states.append(encoder_layer(ops, layer, states[-1], batch))
        found.append(states)
    return found


def batch_of(token_ids: Sequence[int], config: EncoderConfig) -> EncoderBatch[Tensor]:
    """One text."""
    ids = torch.tensor(list(token_ids))
    return EncoderBatch(
        token_ids=ids,
        positions=torch.arange(len(ids)) + config.first_position,
        token_types=torch.zeros_like(ids),
        query_starts=torch.tensor([0, len(ids)]),
    )
