"""A recipe and an encoder's checkpoint brought together. Options that say nothing to an encoder are refused by name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ingot.builder.checkpoint import Checkpoint
from ingot.builder.hub import Source
from ingot.builder.recipe import Recipe, option
from ingot.builder.sentence import SentenceFiles, read_sentence_files
from ingot.errors import CheckpointError, RecipeError, UnsupportedModelError
from ingot.manifest import Embedding, Limits
from ingot.network.encoder_config import EncoderConfig, read_encoder

MEANINGLESS = (
    *("quant", "kv", "sm", "page_size", "kv_memory", "calibration", "calibration_samples", "calibration_length"),
    *("max_ppl_ratio", "max_kl", "min_agreement"),
)
MAX_NUM_SEQS, MAX_TOKENS = 64, 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderJob:
    """What is going to be built. Its recipe names what `auto` came to."""

    recipe: Recipe
    source: Source
    checkpoint: Checkpoint
    digest: str  # of the checkpoint
    config: EncoderConfig
    limits: Limits
    embedding: Embedding

    @property
    def name(self) -> str:
        return self.recipe.name or Path(self.recipe.model).expanduser().resolve().name

    def source_record(self) -> dict[str, Any]:
        """Where the weights came from, for the manifest."""
        commit = self.source.commit
        return {"model": self.recipe.model, "commit": commit, "digest": self.digest, "quantized_as": "none"}


def resolve_encoder(
    recipe: Recipe, source: Source, checkpoint: Checkpoint, *, export: Path | None = None
) -> EncoderJob:
    """Checks that recipe and checkpoint fit. Raises the IngotError that says what does not."""
    config = read_encoder(checkpoint.config)
    refuse_meaningless(recipe, config, export)
    if "quantization_config" in checkpoint.config:
        raise UnsupportedModelError(
            f"{recipe.model} came quantized; encoders are built unquantized.", mend="Give the original checkpoint."
        )
    if not (source.folder / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{source.folder} has no tokenizer.json.",
            mend="Write one: AutoTokenizer.from_pretrained(MODEL).save_pretrained(MODEL).",
        )
    found = read_sentence_files(source.folder)
    pooling = (found.pooling or "mean") if recipe.pooling == "auto" else recipe.pooling
    dtype = "float32" if recipe.dtype == "auto" else recipe.dtype
    return EncoderJob(
        recipe=replace(recipe, target="cpu", dtype=dtype),
        source=source,
        checkpoint=checkpoint,
        digest=checkpoint.digest(),
        config=config,
        limits=encoder_limits(recipe, config, found),
        embedding=Embedding(size=config.hidden_size, pooling=pooling, normalize=found.normalize),
    )


def refuse_meaningless(recipe: Recipe, config: EncoderConfig, export: Path | None) -> None:
    if recipe.target not in ("auto", "cpu"):
        raise RecipeError(
            f"A {config.family} encoder cannot be built for {recipe.target} yet.", mend="Use --target cpu."
        )
    if export is not None:
        raise RecipeError("--export writes a quantized checkpoint; encoders stay as they are.", mend="Leave it out.")
    for spec in dataclasses.fields(recipe):
        if spec.name in MEANINGLESS and getattr(recipe, spec.name) != spec.default:
            raise RecipeError(f"{option(spec.name)} says nothing to a {config.family} encoder.", mend="Leave it out.")


def encoder_limits(recipe: Recipe, config: EncoderConfig, found: SentenceFiles) -> Limits:
    """An encoder reads a text in one step, so a step holds the longest."""
    most = config.max_position
    length = recipe.max_model_len or min(found.max_length or most, most)
    if length > most:
        raise RecipeError(
            f"--max-model-len {length} is past the {most} positions the model was made for.",
            mend=f"Give at most {most}.",
        )
    tokens = recipe.max_num_batched_tokens or max(MAX_TOKENS, length)
    if tokens < length:
        raise RecipeError(
            f"--max-num-batched-tokens {tokens} is less than a text's {length} tokens, which an encoder reads at once.",
            mend="Raise it, or lower --max-model-len.",
        )
    seqs = recipe.max_num_seqs or min(MAX_NUM_SEQS, tokens)
    return Limits(
        max_model_len=length, max_num_seqs=seqs, max_num_batched_tokens=tokens, page_size=recipe.page_size, num_pages=0
    )
