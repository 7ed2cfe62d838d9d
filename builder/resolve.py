"""A recipe and the checkpoint it names, brought together: every open knob is chosen here, once, before any work starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ingot.builder.checkpoint import Checkpoint, open_checkpoint
from ingot.builder.hub import Source, locate
from ingot.builder.memory import kv_dtype_of, plan_limits
from ingot.builder.quantize.declared import Declared, read_declared
from ingot.builder.recipe import Recipe
from ingot.builder.sentence import SentenceFiles, read_sentence_files
from ingot.builder.targets import gpu_sm, resolve_target
from ingot.builder.tensorrt.support import check_rtx, check_tensorrt
from ingot.errors import RecipeError, UnsupportedModelError
from ingot.manifest import Embedding, Limits
from ingot.network.config import ModelConfig
from ingot.network.weights import INT4_GROUP, LINEARS, NVFP4_GROUP, Scheme, linear_shape

EMBEDDING_TARGETS = ("cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is going to be built. Its recipe names what `auto` and an already quantized checkpoint came to."""

    recipe: Recipe
    source: Source
    checkpoint: Checkpoint
    digest: str  # of the checkpoint
    config: ModelConfig
    declared: Declared
    limits: Limits
    embedding: Embedding | None = None  # where the target serves embeddings

    @property
    def tasks(self) -> tuple[str, ...]:
        return ("generate",) if self.embedding is None else ("generate", "embed")

    @property
    def target(self) -> str:
        return self.recipe.target

    @property
    def dtype(self) -> str:
        return self.recipe.dtype

    @property
    def quant(self) -> str:
        return self.recipe.quant

    @property
    def kv_dtype(self) -> str:
        return kv_dtype_of(self.recipe.kv, self.recipe.dtype)

    @property
    def name(self) -> str:
        return self.recipe.name or Path(self.recipe.model).expanduser().resolve().name

    def source_record(self) -> dict[str, Any]:
        """Where the weights came from, for the manifest."""
        return {
            "model": self.recipe.model,
            "commit": self.source.commit,
            "digest": self.digest,
            "quantized_as": self.declared.quant,
            "quantized_by": self.declared.method,
        }


def open_source(recipe: Recipe, *, endpoint: str | None = None) -> tuple[Source, Checkpoint]:
    """Fetches what is not here yet."""
    source = locate(recipe.model, revision=recipe.revision, token=recipe.token, endpoint=endpoint)
    return source, open_checkpoint(source.folder)


def resolve(recipe: Recipe, *, endpoint: str | None = None) -> Job:
    """`resolve_decoder` of what the recipe names."""
    return resolve_decoder(recipe, *open_source(recipe, endpoint=endpoint))


def resolve_decoder(recipe: Recipe, source: Source, checkpoint: Checkpoint) -> Job:
    """Checks that recipe and checkpoint fit. Raises the IngotError that says what does not."""
    config = ModelConfig.from_hf(checkpoint.config)
    declared = read_declared(checkpoint)
    target = resolve_target(recipe.target)
    if declared.quant != "none" and recipe.quant not in ("none", declared.quant):
        raise RecipeError(
            f"{recipe.model} is already quantized as {declared.quant}; --quant asks for {recipe.quant}.",
            mend="Leave --quant out to build it as it is, or give the unquantized checkpoint.",
        )
    quant = recipe.quant if declared.quant == "none" else declared.quant
    if declared.quant == "none":
        check_groups(config, quant)
    if recipe.sm and not target.startswith("tensorrt"):
        raise RecipeError(f"--sm says nothing to target {target}.", mend="Leave it out, or use --target tensorrt-rtx.")
    if recipe.lm_head == "fp8":
        check_lm_head(config, target)
    dtype = recipe.dtype if recipe.dtype != "auto" else "float32" if target == "cpu" else config.dtype
    kv = "fp8" if "fp8" in (recipe.kv, declared.kv) else "auto"
    schemes = {Scheme(quant.removesuffix("-dynamic"))}
    if target == "tensorrt-rtx":
        check_rtx(schemes, recipe.sms, kv_dtype=kv_dtype_of(kv, dtype))
    if target == "tensorrt":
        check_tensorrt(schemes, recipe.sms, gpu_sm(), kv_dtype=kv_dtype_of(kv, dtype))
    recipe = replace(recipe, target=target, dtype=dtype, quant=quant, kv=kv)
    return Job(
        recipe=recipe,
        source=source,
        checkpoint=checkpoint,
        digest=checkpoint.digest(),
        config=config,
        declared=declared,
        limits=plan_limits(recipe, config, target=target, kv_dtype=kv_dtype_of(kv, dtype)),
        embedding=embedding_of(recipe, read_sentence_files(source.folder), config, target),
    )


def check_lm_head(config: ModelConfig, target: str) -> None:
    if config.tie_embeddings:
        raise RecipeError(
            "--lm-head fp8 would round the embedding too, which this model shares with its LM head.",
            mend="Leave --lm-head out.",
        )
    if target.startswith("tensorrt"):
        raise RecipeError(f"--lm-head fp8 says nothing to target {target}.", mend="Leave it out, or use --target cuda.")


def embedding_of(recipe: Recipe, found: SentenceFiles, config: ModelConfig, target: str) -> Embedding | None:
    """A decoder's vectors: the last token's hidden state has seen the whole text, the first one's nothing."""
    if target not in EMBEDDING_TARGETS:
        if recipe.pooling != "auto":
            raise RecipeError(f"--pooling says nothing to target {target}.", mend="Leave it out.")
        return None
    pooling = (found.pooling or "last") if recipe.pooling == "auto" else recipe.pooling
    if pooling == "cls":
        raise RecipeError("A decoder's first token sees nothing of the text.", mend="Use --pooling mean or last.")
    return Embedding(size=config.hidden_size, pooling=pooling, normalize=found.normalize)


def check_groups(config: ModelConfig, quant: str) -> None:
    """INT4 and NVFP4 share a scale among a run of input channels; a linear's inputs must be a whole number of runs."""
    group = {"int4": INT4_GROUP, "nvfp4": NVFP4_GROUP}.get(quant, 1)
    for kind in LINEARS:
        width = linear_shape(config, kind)[1]
        if width % group:
            raise UnsupportedModelError(
                f"{quant} needs linears with a multiple of {group} inputs; {kind} has {width}.",
                mend="Use --quant fp8 or int8.",
            )
