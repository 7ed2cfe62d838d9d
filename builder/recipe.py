"""Every knob of a build, frozen and checked. Knows no torch, no files and nothing of how a stage does its work."""

from __future__ import annotations

import dataclasses
import re
import shlex
from dataclasses import dataclass, field
from typing import Any

from ingot.errors import RecipeError

QUANTS = ("none", "fp8", "fp8-dynamic", "int8", "int4", "nvfp4")
KVS = ("auto", "fp8")
TARGETS = ("auto", "cpu", "cuda", "tensorrt", "tensorrt-rtx")
LM_HEADS = ("auto", "fp8")
POOLINGS = ("auto", "mean", "last", "cls")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How far an engine may stray from the original on held-out text."""

    ppl_ratio: float  # perplexity of the engine / perplexity of the original
    kl: float  # mean KL divergence per token, nats
    agreement: float  # share of positions where both put the same token first


# Set where a sound build of a small model lands well inside and a broken one far outside; larger models stray less.
BOUNDS = {
    "none": Bounds(ppl_ratio=1.01, kl=0.005, agreement=0.98),
    "fp8": Bounds(ppl_ratio=1.03, kl=0.02, agreement=0.95),
    "fp8-dynamic": Bounds(ppl_ratio=1.03, kl=0.02, agreement=0.95),
    "int8": Bounds(ppl_ratio=1.05, kl=0.04, agreement=0.93),
    "int4": Bounds(ppl_ratio=1.15, kl=0.15, agreement=0.85),
    "nvfp4": Bounds(ppl_ratio=1.15, kl=0.15, agreement=0.85),
}


def knob(default: Any, help: str, *, secret: bool = False, choices: tuple[str, ...] = ()) -> Any:
    """A recipe field that carries what the command line says about it."""
    return field(default=default, repr=not secret, metadata={"help": help, "choices": choices, "secret": secret})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to build and how. None means: chosen by the build from the model and the target.

    Raises RecipeError at the first value out of range. Unknown names raise TypeError, as for any function.
    """

    model: str
    out: str
    name: str | None = knob(None, "Served model name. Default: the last part of MODEL.")
    revision: str | None = knob(None, "Branch, tag or commit of a Hub model.")
    token: str | None = knob(None, "Hub token; never written to the engine. Default: HF_TOKEN.", secret=True)
    quant: str = knob("none", "Weight quantization.", choices=QUANTS)
    kv: str = knob(
        "auto", "KV cache: auto follows the checkpoint, fp8 stores e4m3 with a scale per layer.", choices=KVS
    )
    lm_head: str = knob(
        "auto",
        "LM head: auto leaves it as the checkpoint has it, fp8 rounds it to e4m3, a scale a row.",
        choices=LM_HEADS,
    )
    target: str = knob("auto", "What to compile for. auto: cuda where a GPU of SM >= 8.0 is present.", choices=TARGETS)
    sm: str | None = knob(None, "GPUs that the TensorRT targets compile for, as compute capabilities: 89,120.")
    dtype: str = knob("auto", "Activations. auto: float32 on cpu, the checkpoint's elsewhere.", choices=DTYPES)
    pooling: str = knob(
        "auto",
        "Embeddings are made of these tokens' hidden states. auto: as the checkpoint says, else last; mean for encoders.",
        choices=POOLINGS,
    )
    max_model_len: int | None = knob(None, "Prompt and output tokens of one sequence.")
    max_num_seqs: int | None = knob(None, "Sequences running at once. Default: 64 on cpu, 256 elsewhere.")
    max_num_batched_tokens: int | None = knob(
        None, "Tokens of one step. Default: 2048 on cpu, on cuda 8448 or, with fp8, 16896, else 8192."
    )
    page_size: int = knob(16, "KV slots of one page; a power of two.")
    kv_memory: int = knob(1 << 30, "Bytes of the KV pool on cpu, where it is fixed at build.")
    calibration: str | None = knob(None, "Calibration text: .txt, or .jsonl with a text field.")
    calibration_samples: int = knob(128, "Sequences to calibrate with.")
    calibration_length: int = knob(512, "Tokens of one calibration sequence.")
    verify_text: str | None = knob(None, "Held-out text: .txt, or .jsonl with a text field.")
    verify_tokens: int = knob(4096, "Held-out tokens to compare over.")
    max_ppl_ratio: float | None = knob(None, "Quality bound: perplexity over the original's. Default: by quant.")
    max_kl: float | None = knob(None, "Quality bound: mean KL divergence in nats. Default: by quant.")
    min_agreement: float | None = knob(None, "Quality bound: share of equal greedy tokens. Default: by quant.")
    allow_quality_loss: bool = knob(False, "Keep an engine that is past the quality bound; its manifest says so.")

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            choices = spec.metadata.get("choices")
            value = getattr(self, spec.name)
            if choices and value not in choices:
                raise RecipeError(
                    f"{option(spec.name)} is {value!r}, which ingot does not know.",
                    mend=f"Use one of {', '.join(choices)}.",
                )
        if not self.model:
            raise RecipeError("MODEL is empty.", mend="Name a local folder or a Hub id such as org/model.")
        if not self.out:
            raise RecipeError("The output folder is empty.", mend="Give one with -o DIR.")
        self._check_sm()
        self._check_sizes()
        self._check_bounds()

    def _check_sm(self) -> None:
        if self.sm is not None and not re.fullmatch(r"\d{2,3}(,\d{2,3})*", self.sm):
            raise RecipeError(
                f"--sm is {self.sm!r}.", mend="Give compute capabilities without their dot: 89 or 89,120."
            )
        if self.sm is not None and self.target in ("cpu", "cuda"):
            raise RecipeError(
                f"--sm says nothing to --target {self.target}.", mend="Leave it out, or use --target tensorrt-rtx."
            )

    def _check_sizes(self) -> None:
        least = {"max_model_len": 2, "calibration_length": 16, "verify_tokens": 64}
        for name in (
            *("max_model_len", "max_num_seqs", "max_num_batched_tokens", "page_size", "kv_memory"),
            *("calibration_samples", "calibration_length", "verify_tokens"),
        ):
            value = getattr(self, name)
            if value is not None and value < least.get(name, 1):
                raise RecipeError(f"{option(name)} is {value}.", mend=f"Give at least {least.get(name, 1)}.")
        if self.page_size & (self.page_size - 1):
            raise RecipeError(f"--page-size is {self.page_size}.", mend="Give a power of two, such as 16.")
        if self.max_num_seqs and self.max_num_batched_tokens and self.max_num_batched_tokens < self.max_num_seqs:
            raise RecipeError(
                f"--max-num-batched-tokens {self.max_num_batched_tokens} is less than --max-num-seqs {self.max_num_seqs}: "
                "a step could not give every running sequence a token.",
                mend="Raise the first or lower the second.",
            )

    def _check_bounds(self) -> None:
        bounds = self.bounds
        if not bounds.ppl_ratio > 0:
            raise RecipeError(f"--max-ppl-ratio is {bounds.ppl_ratio}.", mend="Give a positive ratio, such as 1.03.")
        if not bounds.kl >= 0:
            raise RecipeError(f"--max-kl is {bounds.kl}.", mend="Give a number of nats, 0 or more, such as 0.02.")
        if not 0 <= bounds.agreement <= 1:
            raise RecipeError(
                f"--min-agreement is {bounds.agreement}.", mend="Give a share between 0 and 1, such as 0.95."
            )

    @property
    def sms(self) -> tuple[int, ...]:
        """The compute capabilities of `sm`, ascending."""
        return tuple(sorted({int(part) for part in self.sm.split(",")})) if self.sm else ()

    @property
    def bounds(self) -> Bounds:
        usual = BOUNDS[self.quant]
        return Bounds(
            ppl_ratio=usual.ppl_ratio if self.max_ppl_ratio is None else self.max_ppl_ratio,
            kl=usual.kl if self.max_kl is None else self.max_kl,
            agreement=usual.agreement if self.min_agreement is None else self.min_agreement,
        )

    def public(self) -> dict[str, Any]:
        """Every knob as plain data, the secret ones left out: what the manifest keeps and stages are keyed by."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.metadata.get("secret")}

    def command(self) -> str:
        """The command line that makes this build again."""
        words = ["ingot", "build", self.model, "-o", self.out]
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if spec.metadata and not spec.metadata["secret"] and value != spec.default:
                words += [option(spec.name)] if value is True else [option(spec.name), str(value)]
        return shlex.join(words)


def option(name: str) -> str:
    """A field's name as the command line spells it."""
    return "MODEL" if name == "model" else "--" + name.replace("_", "-")
