"""A recipe made into an engine folder: resolve -> quantize -> pack -> compile -> verify -> seal.

Knows the order of the stages and what each depends on; the work of each is its own module's. Every result but the last
lies in the cache under the digest of what it was made from, so a build that was cut short goes on where it stopped.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ingot import __version__, plans
from ingot.builder.checkpoint import Checkpoint, open_checkpoint
from ingot.builder.corpus import load_corpus
from ingot.builder.encoder.build import EncoderBuild
from ingot.builder.encoder.job import resolve_encoder
from ingot.builder.memory import human, memory_plan, needs
from ingot.builder.progress import Reporter
from ingot.builder.quality import judge
from ingot.builder.recipe import Recipe
from ingot.builder.resolve import Job, open_source, resolve_decoder
from ingot.builder.seal import check_out, export_checkpoint, seal
from ingot.builder.stages import DEFAULT_CACHE, StageCache
from ingot.builder.tables import memory_table, needs_table, quality_table
from ingot.builder.targets import Compiled, CompileJob, compiler_of, gpu_sm
from ingot.builder.tensorrt.tables import plans_table
from ingot.builder.versions import library_versions
from ingot.manifest import FORMAT_VERSION, Manifest
from ingot.network.encoder_config import is_encoder

STAGE_FORMAT = 7  # raised when a stage makes something else of the same inputs
COMPILER_LIBRARIES = {
    "tensorrt": ("tensorrt", "onnx_ir"),
    "tensorrt-rtx": ("tensorrt_rtx", "onnx_ir"),
}  # of a target, beyond these


def build_engine(
    recipe: Recipe,
    *,
    cache: Path | None = None,
    export: Path | None = None,
    endpoint: str | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Builds `recipe.out` and returns it. `export` also gets the quantized Hugging Face checkpoint.

    Raises the IngotError that says what was wrong; the output folder is then as it was before.
    """
    reporter = reporter or Reporter.silent()
    out = Path(recipe.out).expanduser()
    check_out(out)
    stages = StageCache((cache or DEFAULT_CACHE).expanduser())
    with reporter.stage("resolve"):
        source, checkpoint = open_source(recipe, endpoint=endpoint)
        if is_encoder(checkpoint.config):
            encoder = resolve_encoder(recipe, source, checkpoint, export=export)
        else:
            job = resolve_decoder(recipe, source, checkpoint)
            compiler_of(job.target)
    if is_encoder(checkpoint.config):
        return EncoderBuild(job=encoder, cache=stages, reporter=reporter).run(out)
    return Build(job=job, cache=stages, reporter=reporter).run(out, export)


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One build under way. Each stage takes the folders of the stages before and returns its own."""

    job: Job
    cache: StageCache
    reporter: Reporter

    def run(self, out: Path, export: Path | None) -> Path:
        job = self.job
        quant = job.quant if job.declared.quant == "none" else "none"
        wanted = needs(job.config, checkpoint=job.checkpoint.nbytes, quant=quant, dtype=job.dtype)
        self.reporter.show(needs_table(wanted, self.cache.root, out))
        wanted.check(self.cache.root, out)
        quantized = self.quantize()
        if export is not None:
            export_checkpoint(quantized, export)
        packed = self.pack(quantized)
        scales = self.calibrate_kv(packed)
        compiled = self.compile([packed, *scales])
        quality = self.verify(packed, scales)
        manifest = self.manifest([packed, *scales], compiled, quality)
        report = read_compiled(compiled)
        with (
            self.reporter.stage("seal"),
            self.cache.claim([] if report.holds_weights else [packed, *scales]) as claimed,
        ):
            weights = [path for folder in claimed for path in sorted(folder.glob("*.safetensors"))]
            manifest = seal(out, manifest, files=job.checkpoint.kept_files(), weights=weights, compiled=compiled)
        self.reporter.show(memory_table(manifest))
        self.reporter.show(quality_table(quality))
        self.reporter.note(
            f"{out}: {human(sum(file.size for file in manifest.files.values()))} for target {manifest.target}."
        )
        return out

    def quantize(self) -> Checkpoint:
        """The checkpoint with quantized weights: the one given, where nothing is to be done."""
        job = self.job
        if job.quant == job.declared.quant:
            return job.checkpoint
        recipe = job.recipe
        inputs = self.inputs(checkpoint=job.digest, quant=job.quant)
        if job.quant == "fp8-dynamic":
            from ingot.builder.quantize.dynamic import quantize_dynamic

            with self.reporter.stage("quantize", job.checkpoint.nbytes) as advance:
                folder = self.cache.run(
                    "quantize", inputs, lambda part: quantize_dynamic(job.checkpoint, job.config, part, advance)
                )
            return open_checkpoint(folder)
        corpus = load_corpus("calibration", given=recipe.calibration, folder=job.checkpoint.folder)
        inputs |= {
            "kv_dtype": job.kv_dtype,
            "corpus": corpus.digest,
            "samples": recipe.calibration_samples,
            "length": recipe.calibration_length,
            "modelopt": library_versions().get("nvidia-modelopt"),
        }
        from ingot.builder.quantize.calibrated import quantize_calibrated

        with self.reporter.stage("quantize") as advance:
            folder = self.cache.run("quantize", inputs, lambda part: quantize_calibrated(job, corpus, part))
        return open_checkpoint(folder)

    def pack(self, quantized: Checkpoint) -> Path:
        import torch

        from ingot.builder.pack import Packer, pack

        job = self.job
        source = job.digest if quantized is job.checkpoint else quantized.folder.name
        inputs = self.inputs(checkpoint=source, dtype=job.dtype, lm_head=job.recipe.lm_head)
        packer = Packer(
            checkpoint=quantized, config=job.config, dtype=getattr(torch, job.dtype), lm_head=job.recipe.lm_head
        )
        with self.reporter.stage("pack", quantized.nbytes) as advance:
            return self.cache.run("pack", inputs, lambda part: pack(packer, part, advance))

    def calibrate_kv(self, packed: Path) -> list[Path]:
        """The folder of KV scales, where the cache is to be FP8 and the checkpoint has no scales for it."""
        from ingot.builder.kv_scales import calibrate_kv, has_kv_scales

        job, recipe = self.job, self.job.recipe
        if job.kv_dtype != "float8_e4m3fn" or has_kv_scales(packed):
            return []
        corpus = load_corpus("calibration", given=recipe.calibration, folder=job.checkpoint.folder)
        inputs = self.inputs(packed=packed.name, corpus=corpus.digest, samples=recipe.calibration_samples)
        inputs |= {"length": recipe.calibration_length}
        with self.reporter.stage("kv scales", job.config.num_layers) as advance:
            return [self.cache.run("kv", inputs, lambda part: calibrate_kv(job, packed, corpus, part, advance))]

    def compile(self, weights: list[Path]) -> Path:
        job = self.job
        compiler = compiler_of(job.target)
        inputs = self.inputs(
            weights=[folder.name for folder in weights],
            target=job.target,
            limits=msgspec.to_builtins(job.limits),
            kv_dtype=job.kv_dtype,
        )
        if job.target in ("cuda", "tensorrt"):
            inputs |= {"gpu": gpu_sm()}
        inputs |= {"versions": library_versions(*COMPILER_LIBRARIES.get(job.target, ())), "sms": job.recipe.sms}
        with self.reporter.stage("compile", job.config.num_layers + 1) as advance:
            work = CompileJob(
                config=job.config,
                weights=tuple(weights),
                limits=job.limits,
                dtype=job.dtype,
                kv_dtype=job.kv_dtype,
                quant=job.quant,
                sms=job.recipe.sms,
                previous=Path(job.recipe.out).expanduser(),
                advance=advance,
            )
            folder = self.cache.run("compile", inputs, lambda part: write_compiled(compiler(work, part), part))
        if (folder / plans.FILE_NAME).is_file():
            self.reporter.show(plans_table(plans.read_plans(folder)))
        return folder

    def verify(self, packed: Path, scales: list[Path]) -> dict[str, Any]:
        """Figures and verdict. Raises QualityError past the recipe's bound."""
        from ingot.builder.verify import compare

        job, recipe = self.job, self.job.recipe
        corpus = load_corpus("heldout", given=recipe.verify_text, folder=job.checkpoint.folder)
        inputs = self.inputs(packed=packed.name, scales=[folder.name for folder in scales], kv_dtype=job.kv_dtype)
        inputs |= {
            "original": job.digest,
            "corpus": corpus.digest,
            "tokens": recipe.verify_tokens,
            "torch": library_versions()["torch"],
        }

        def run(part: Path) -> None:
            figures = compare(job, [packed, *scales], corpus, advance)
            (part / "figures.json").write_text(json.dumps(figures))

        with self.reporter.stage("verify", job.config.num_layers) as advance:
            figures = json.loads((self.cache.run("verify", inputs, run) / "figures.json").read_text())
        return judge(figures, recipe.bounds, allow_loss=recipe.allow_quality_loss)

    def manifest(self, weights: list[Path], compiled: Path, quality: dict[str, Any]) -> Manifest:
        """All but the files' records, which seal adds."""
        job = self.job
        report = read_compiled(compiled)
        size = sum(path.stat().st_size for folder in weights for path in folder.glob("*.safetensors"))
        memory = memory_plan(job.config, job.limits, weights=size, dtype=job.dtype, kv_dtype=job.kv_dtype)
        return Manifest(
            format_version=FORMAT_VERSION,
            name=job.name,
            target=job.target,
            sm=report.sm,
            source=job.source_record(),
            recipe=job.recipe.public(),
            dtype=job.dtype,
            kv_dtype=job.kv_dtype,
            limits=job.limits,
            memory=memory | report.memory,
            quality=quality,
            versions={
                "ingot": __version__,
                "python": platform.python_version(),
                **library_versions(),
                **report.versions,
            },
            files={},
            rebuild=job.recipe.command(),
            built_at=datetime.now(UTC).isoformat(timespec="seconds"),
            tasks=job.tasks,
            embedding=job.embedding,
        )

    def inputs(self, **inputs: Any) -> dict[str, Any]:
        return {"format": STAGE_FORMAT, "ingot": __version__, **inputs}


def write_compiled(compiled: Compiled, folder: Path) -> None:
    (folder / "compiled.json").write_bytes(msgspec.json.encode(compiled))


def read_compiled(folder: Path) -> Compiled:
    return msgspec.json.decode((folder / "compiled.json").read_bytes(), type=Compiled)
