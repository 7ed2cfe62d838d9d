"""An encoder's recipe made into an engine folder: pack -> verify -> seal. The cpu target compiles nothing.

Stages lie in the cache as those of builder/build.py do.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ingot import __version__
from ingot.builder.corpus import load_corpus
from ingot.builder.encoder.job import EncoderJob
from ingot.builder.memory import DTYPE_BYTES, Needs, human
from ingot.builder.progress import Reporter
from ingot.builder.seal import seal
from ingot.builder.stages import StageCache
from ingot.builder.tables import memory_table, needs_table, quality_table
from ingot.builder.versions import library_versions
from ingot.manifest import FORMAT_VERSION, Manifest

STAGE_FORMAT = 1  # raised when a stage makes something else of the same inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderBuild:
    """One build under way. Each stage takes the folders of the stages before and returns its own."""

    job: EncoderJob
    cache: StageCache
    reporter: Reporter

    def run(self, out: Path) -> Path:
        job, cache = self.job, self.cache
        size = job.checkpoint.nbytes * DTYPE_BYTES[job.recipe.dtype] // DTYPE_BYTES[job.config.dtype]
        wanted = Needs(disk=size, out=size, ram=3 * size + (1 << 30))
        self.reporter.show(needs_table(wanted, cache.root, out))
        wanted.check(cache.root, out)
        packed = self.pack()
        quality = self.verify(packed)
        manifest = self.manifest(packed, quality)
        nothing = cache.run("compile", self.inputs(target="cpu", encoder=True), lambda part: None)
        with self.reporter.stage("seal"), cache.claim([packed]) as claimed:
            weights = [path for folder in claimed for path in sorted(folder.glob("*.safetensors"))]
            manifest = seal(out, manifest, files=job.checkpoint.kept_files(), weights=weights, compiled=nothing)
        self.reporter.show(memory_table(manifest))
        self.reporter.show(quality_table(quality))
        self.reporter.note(f"{out}: {human(sum(file.size for file in manifest.files.values()))} for target cpu.")
        return out

    def pack(self) -> Path:
        from ingot.builder.encoder.pack import pack_encoder
        from ingot.plugins.dtypes import torch_dtype

        job = self.job
        inputs = self.inputs(checkpoint=job.digest, dtype=job.recipe.dtype, encoder=True)
        with self.reporter.stage("pack", job.checkpoint.nbytes) as advance:
            return self.cache.run(
                "pack",
                inputs,
                lambda part: pack_encoder(job.checkpoint, job.config, torch_dtype(job.recipe.dtype), part, advance),
            )

    def verify(self, packed: Path) -> dict[str, Any]:
        """Figures and verdict. Raises QualityError past the bound."""
        from ingot.builder.encoder.verify import compare_encoder, judge_encoder

        job, recipe = self.job, self.job.recipe
        corpus = load_corpus("heldout", given=recipe.verify_text, folder=job.checkpoint.folder)
        inputs = self.inputs(packed=packed.name, original=job.digest, corpus=corpus.digest, dtype=recipe.dtype)
        inputs |= {"tokens": recipe.verify_tokens, "pooling": job.embedding.pooling, "length": job.limits.max_model_len}
        inputs |= {"torch": library_versions()["torch"]}

        def run(part: Path) -> None:
            (part / "figures.json").write_text(json.dumps(compare_encoder(job, [packed], corpus, advance)))

        with self.reporter.stage("verify", job.config.num_layers) as advance:
            figures = json.loads((self.cache.run("verify", inputs, run) / "figures.json").read_text())
        return judge_encoder(figures, recipe.dtype, allow_loss=recipe.allow_quality_loss)

    def manifest(self, packed: Path, quality: dict[str, Any]) -> Manifest:
        """All but the files' records, which seal adds."""
        job, recipe = self.job, self.job.recipe
        width = 4 * job.config.hidden_size + 2 * job.config.intermediate_size
        memory = {
            "weights": sum(path.stat().st_size for path in packed.glob("*.safetensors")),
            "activations": job.limits.max_num_batched_tokens * width * DTYPE_BYTES[recipe.dtype],
        }
        return Manifest(
            format_version=FORMAT_VERSION,
            name=job.name,
            target="cpu",
            sm=[],
            source=job.source_record(),
            recipe=recipe.public(),
            dtype=recipe.dtype,
            kv_dtype=recipe.dtype,
            limits=job.limits,
            memory=memory,
            quality=quality,
            versions={"ingot": __version__, "python": platform.python_version(), **library_versions()},
            files={},
            rebuild=recipe.command(),
            built_at=datetime.now(UTC).isoformat(timespec="seconds"),
            tasks=("embed",),
            embedding=job.embedding,
        )

    def inputs(self, **inputs: Any) -> dict[str, Any]:
        return {"format": STAGE_FORMAT, "ingot": __version__, **inputs}
