"""The cuda target's program: plans in, tokens out, one step ahead. Knows plans and rows; the forward knows tensors.

Sampled tokens feed the next step on the GPU. Nothing between launch and result waits for the GPU.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from ingot.errors import EngineError
from ingot.manifest import Limits, Manifest
from ingot.network.config import ModelConfig
from ingot.network.weights import Weight
from ingot.plugins import compiling
from ingot.plugins.cubin import use_cubins
from ingot.plugins.cuda_ops import CudaOps, check_supported
from ingot.plugins.dtypes import torch_dtype
from ingot.plugins.linear.launch import Choices
from ingot.plugins.linear.tune import read_choices
from ingot.plugins.load import read_weights
from ingot.plugins.packed import use_pack
from ingot.runtime.logprobs import Measured
from ingot.runtime.params import SamplingParams
from ingot.runtime.plan import Arrival, Slice, StepPlan
from ingot.runtime.programs.cuda_forward import CudaForward, Sampled
from ingot.runtime.programs.cuda_step import is_decode, late_pages, mixed_step, prompt_tile
from ingot.runtime.programs.cuda_tables import CudaTables, CudaTicket, Extras
from ingot.runtime.programs.prompt_scores import PromptScores
from ingot.runtime.programs.tensors import read_tensors
from ingot.runtime.sampler import COLDEST, Sampler

CHOICES, CUBINS, PACK = "kernels/choices.json", "kernels/cubin", "kernels/triton"  # in an engine folder
logger = logging.getLogger(__name__)


class CudaProgram:
    """Program of runtime/plan.py over canonical weights that lie on the GPU. `limits.num_pages` None: measured."""

    steps_ahead = 1

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, Weight[Tensor]], limits: Limits, *, dtype: torch.dtype,
        kv_dtype: torch.dtype | None = None, choices: Choices | None = None, memory_share: float = 0.9, graphs: bool = True,
    ) -> None:  # fmt: skip
        check_supported(config)
        self.page_size, self.max_num_seqs, self.vocab_size = limits.page_size, limits.max_num_seqs, config.vocab_size
        device = weights["embed"].data.device
        self._sampler = Sampler(
            max_num_seqs=limits.max_num_seqs,
            vocab_size=config.vocab_size,
            eos_token_ids=config.eos_token_ids,
            device=device,
        )
        self._special: set[int] = set()  # rows that want more than the most likely token
        self._scores = PromptScores()
        self._tile = prompt_tile(config)
        with torch.inference_mode():
            ops = CudaOps(
                config,
                weights,
                [],
                dtype=dtype,
                choices=choices,
                max_seqs=limits.max_num_seqs,
                max_position=limits.max_model_len,
            )
            self._tables = CudaTables(limits, device)
            self._forward = CudaForward(
                config, ops, self._tables, limits, kv_dtype or dtype, share=memory_share, graphs=graphs
            )
        self.memory = self._forward.memory
        self.num_pages = self.memory.num_pages
        logger.info("%s", self.memory)

    def launch(self, plan: StepPlan) -> CudaTicket:
        for row in plan.departures:
            self._sampler.release(row)
            self._special.discard(row)
            self._scores.release(row)
        for arrival in plan.arrivals:
            self._admit(arrival)
        if not plan.slices:
            return self._tables.send(self._tables.tokens[:0], [], 0, Extras())
        with torch.inference_mode():
            scored = self._scores.wanted(plan.slices)
            bucket = self._forward.bucket_of(len(plan.slices))
            if bucket is not None and not scored and is_decode(plan.slices):
                return self._launch_decode(plan.slices, bucket)
            return self._launch_mixed(plan.slices, scored)

    def close(self) -> None:
        torch.cuda.synchronize()
        self._forward.close()

    def _launch_decode(self, slices: list[Slice], bucket: int) -> CudaTicket:
        self._tables.write_pages(late_pages(slices, inline=True))
        out = self._forward.decode(slices, bucket)
        sampling = [i for i, part in enumerate(slices) if part.samples]
        if len(sampling) < len(slices):
            chosen = self._tables.put(np.array(sampling, np.int32))
            out = Sampled(logits=out.logits[chosen], tokens=out.tokens[chosen])
        return self._finish(slices, sampling, [], out)

    def _launch_mixed(self, slices: list[Slice], scored: list[tuple[int, int]]) -> CudaTicket:
        self._tables.write_pages(late_pages(slices, inline=False))
        step = mixed_step(slices, scored, self._tile)
        return self._finish(slices, step.sampling, scored, self._forward.mixed(step))

    def _finish(
        self, slices: list[Slice], sampling: list[int], scored: list[tuple[int, int]], out: Sampled
    ) -> CudaTicket:
        """Samples what the most likely token did not settle, and sends the tokens to the host."""
        tokens, places, sampled = out.tokens, list[int](), None
        if self._special and any(slices[i].row in self._special for i in sampling):
            tokens, places, sampled = self._sample(slices, sampling, out.logits[: len(sampling)])
        prompts = self._scores.measure(slices, scored, out.logits[len(sampling) :])
        extras = Extras(places=places, sampled=sampled, prompts=prompts)
        return self._tables.send(tokens, sampling, len(slices), extras)

    def _sample(
        self, slices: list[Slice], sampling: list[int], logits: Tensor
    ) -> tuple[Tensor, list[int], Measured | None]:
        rows = np.array([slices[i].row for i in sampling], np.int64)
        positions = np.array([slices[i].start + len(slices[i].tokens) for i in sampling], np.int64)
        self._sampler.follow(slices)
        tokens = self._sampler.sample(logits, rows, positions)
        self._tables.last_tokens.index_copy_(0, self._tables.put(rows), tokens.int())
        return tokens.int(), *self._sampler.measure(logits, rows, tokens)

    def _admit(self, arrival: Arrival) -> None:
        self._sampler.admit(arrival)
        self._special.discard(arrival.row)
        self._scores.admit(arrival)
        if not is_plain(arrival.params):
            self._special.add(arrival.row)


def is_plain(params: SamplingParams) -> bool:
    """Whether the most likely token of the raw logits is all a row asks for."""
    greedy_only = (
        params.temperature < COLDEST and params.logprobs is None and not params.logit_bias and not params.min_tokens
    )
    penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
    return greedy_only and penalties == (1.0, 0.0, 0.0) and params.grammar is None


def load_cuda_program(
    engine: Path, manifest: Manifest, *, num_pages: int | None = None, memory_share: float = 0.9
) -> CudaProgram:
    """Reads the engine's weights straight into GPU memory. Raises EngineError where files do not make the promised model or
    the GPU is not what it was built for, CapacityError where it does not fit. Nothing is tuned and nothing compiled: every
    kernel comes with the engine."""
    check_device(engine, manifest)
    use_cubins(engine / CUBINS)
    use_pack(engine / PACK)
    config = ModelConfig.from_hf(json.loads((engine / "config.json").read_text()))
    limits = manifest.limits
    if num_pages is not None:
        limits = msgspec.structs.replace(limits, num_pages=num_pages)
    choices = read_choices(engine / CHOICES) if (engine / CHOICES).exists() else None
    weights = read_weights(read_tensors(engine / "weights", "cuda"), config)
    with compiling.refused():
        return CudaProgram(
            config, weights, limits, dtype=torch_dtype(manifest.dtype), kv_dtype=torch_dtype(manifest.kv_dtype), choices=choices,
            memory_share=memory_share,
        )  # fmt: skip


def check_device(engine: Path, manifest: Manifest) -> None:
    if not torch.cuda.is_available():
        raise EngineError(f"{engine} needs an NVIDIA GPU; PyTorch sees none here.", mend="Build it with --target cpu.")
    major, minor = torch.cuda.get_device_capability()
    if manifest.sm and 10 * major + minor not in manifest.sm:
        built = ", ".join(str(sm / 10) for sm in manifest.sm)
        raise EngineError(
            f"{engine} was built for compute capability {built}; this GPU has {major}.{minor}.",
            mend=f"Build it on this machine: {manifest.rebuild}",
        )
