"""What the cuda program keeps on the GPU from step to step, and the traffic between host and GPU. Knows no model.

Copies are pinned and asynchronous, ordered with the steps on one stream: the host waits in CudaTicket.result alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ingot.manifest import Limits
from ingot.plugins.step.launch import prepare, write_pages
from ingot.runtime.logprobs import Measured
from ingot.runtime.plan import StepResult, TokenLogprobs
from ingot.runtime.programs.cuda_step import Ints
from ingot.runtime.transfer import put

RING = 4  # host buffers in turn: at most two steps are on their way


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """Log-probabilities that a step was asked for, on their way too: of sampled tokens, and of prompts by slice."""

    places: list[int] = field(default_factory=list)  # among the slices that sample, of what `sampled` measures
    sampled: Measured | None = None
    prompts: list[tuple[int, Measured]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaTicket:
    """A step on its way. The event is reached once its tokens lie in `tokens`, pinned, and the extras on the host."""

    event: torch.cuda.Event
    tokens: Tensor  # (R,)
    sampling: list[int]
    num_slices: int
    extras: Extras
    vectors: dict[int, bytes]  # by seq_id

    def result(self) -> StepResult:
        self.event.synchronize()
        found = [-1] * self.num_slices
        for i, token in zip(self.sampling, self.tokens.tolist(), strict=True):
            found[i] = token
        logprobs: list[TokenLogprobs | None] = [None] * self.num_slices
        if self.extras.sampled is not None:
            for place, entry in zip(self.extras.places, self.extras.sampled.read(), strict=True):
                logprobs[self.sampling[place]] = entry
        prompts: list[list[TokenLogprobs] | None] = [None] * self.num_slices
        for i, measured in self.extras.prompts:
            prompts[i] = measured.read()
        return StepResult(tokens=found, logprobs=logprobs, prompt_logprobs=prompts, vectors=self.vectors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Tokens of a step as the decoder wants them."""

    token_ids: Tensor  # (T,)
    positions: Tensor  # (T,) -1 for padding
    slots: Tensor  # (T,)
    lengths: Tensor  # (T,) contexts ending with each token


class CudaTables:
    """Page numbers and last tokens by row, and the buffers that steps come in and tokens go out by."""

    def __init__(self, limits: Limits, device: torch.device) -> None:
        seqs = limits.max_num_seqs
        max_pages = -(-limits.max_model_len // limits.page_size)
        self.page_table = torch.zeros(seqs, max_pages, dtype=torch.int32, device=device)
        self.last_tokens = torch.zeros(seqs, dtype=torch.int32, device=device)
        self.tokens = torch.zeros(seqs, dtype=torch.int32, device=device)
        self.device = device
        self._page_size = limits.page_size
        self._inputs = torch.full((4 * seqs,), -1, dtype=torch.int32, device=device)
        self._results = [torch.zeros(seqs, dtype=torch.int32).pin_memory() for _ in range(RING)]
        self._events = [torch.cuda.Event() for _ in range(RING)]
        self._turn = 0

    def put(self, values: NDArray[Any]) -> Tensor:
        """A copy on the GPU."""
        return put(values, self.device)

    def put_decode(self, inputs: Ints) -> None:
        """A decode step's (4, bucket) into the place its graph reads."""
        self._inputs[: inputs.size].copy_(torch.from_numpy(inputs.reshape(-1)).pin_memory(), non_blocking=True)

    def decode_inputs(self, bucket: int) -> Tensor:
        """(4, bucket): what put_decode wrote."""
        return self._inputs[: 4 * bucket].view(4, bucket)

    def clear_inputs(self) -> None:
        """Padding everywhere: a step then reads and writes nothing."""
        self._inputs.fill_(-1)

    def write_pages(self, deltas: Ints) -> None:
        if deltas.size:
            write_pages(self.put(deltas), self.page_table)

    def prepare(self, inputs: Tensor) -> Prepared:
        """inputs (4, T): row, position, token or FEED, new page; see plugins/step."""
        token_ids, slots, lengths = (
            torch.empty(inputs.shape[1], dtype=torch.int32, device=self.device) for _ in range(3)
        )
        prepare(
            inputs,
            self.page_table,
            self.last_tokens,
            page_size=self._page_size,
            token_ids=token_ids,
            slots=slots,
            lengths=lengths,
        )
        return Prepared(token_ids=token_ids, positions=inputs[1], slots=slots, lengths=lengths)

    def send(
        self, tokens: Tensor, sampling: list[int], num_slices: int, extras: Extras, vectors: dict[int, bytes]
    ) -> CudaTicket:
        """Starts the tokens (R,) of the slices `sampling` on their way to the host."""
        host, event = self._results[self._turn][: len(sampling)], self._events[self._turn]
        self._turn = (self._turn + 1) % RING
        host.copy_(tokens, non_blocking=True)
        event.record()
        return CudaTicket(
            event=event, tokens=host, sampling=sampling, num_slices=num_slices, extras=extras, vectors=vectors
        )
