"""An engine measured again, long after its build, by the recipe in its manifest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ingot.builder.corpus import load_corpus
from ingot.builder.encoder.job import EncoderJob, resolve_encoder
from ingot.builder.progress import Reporter
from ingot.builder.quality import judge
from ingot.builder.recipe import Recipe
from ingot.builder.resolve import Job, open_source, resolve_decoder
from ingot.errors import EngineError
from ingot.manifest import Manifest
from ingot.network.encoder_config import is_encoder

WITHOUT_WEIGHTS = ("tensorrt", "tensorrt-rtx")  # targets whose plans hold them


def verify_engine(engine: Path, manifest: Manifest, *, model: str | None, reporter: Reporter) -> dict[str, Any]:
    """The quality record, measured now; the verdict is in it. Raises EngineError where the original is another one."""
    from ingot.builder.encoder.verify import compare_encoder, judge_encoder
    from ingot.builder.verify import compare

    if manifest.target in WITHOUT_WEIGHTS:
        raise EngineError(
            f"{engine} holds its weights inside compiled plans, where they cannot be measured again.",
            mend=f"Check its files alone with --files-only; to measure, build it again: {manifest.rebuild}",
        )
    known = {spec.name for spec in dataclasses.fields(Recipe)}
    if set(manifest.recipe) - known:
        raise EngineError(
            f"The recipe of {engine} has a knob {min(set(manifest.recipe) - known)!r}, which this ingot does not know.",
            mend=f"Build it again: {manifest.rebuild}",
        )
    recipe = Recipe(**{**manifest.recipe, "model": model or manifest.recipe["model"]})
    with reporter.stage("resolve"):
        source, checkpoint = open_source(recipe)
        job: Job | EncoderJob
        if is_encoder(checkpoint.config):
            job = resolve_encoder(recipe, source, checkpoint)
        else:
            job = resolve_decoder(recipe, source, checkpoint)
    if job.digest != manifest.source["digest"]:
        raise EngineError(
            f"{recipe.model} is not the checkpoint that {engine} was made from: its content differs.",
            mend="Name the original with --model, or build the engine again.",
        )
    corpus = load_corpus("heldout", given=recipe.verify_text, folder=job.checkpoint.folder)
    with reporter.stage("verify", job.config.num_layers) as advance:
        if isinstance(job, EncoderJob):
            figures = compare_encoder(job, [engine / "weights"], corpus, advance)
            return judge_encoder(figures, recipe.dtype, allow_loss=True)
        figures = compare(job, [engine / "weights"], corpus, advance)
    return judge(figures, recipe.bounds, allow_loss=True)
