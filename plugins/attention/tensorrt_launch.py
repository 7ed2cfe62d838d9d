"""What TensorRT's plugin launches: the cuda target's kernels, on TensorRT's memory and stream.

Knows device addresses and shapes; nothing here waits for the GPU. Whether a step is all decodes is told by its shapes, one
token for every sequence; any other step runs as prompts, whose tiles are planned on the GPU.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from ingot.plugins.attention.launch import Paged, Workspace, choose_decode, write
from ingot.plugins.attention.prefill import device_tiles
from ingot.plugins.attention.step import CudaBatch, attend
from ingot.plugins.attention.tensorrt_plugin import Call
from ingot.plugins.attention.tiles import prefill_rows


class KernelLaunch:
    """A Launch of tensorrt_plugin.py for the layers of one engine, which run in turn and so share one workspace.

    `max_seqs` bounds the sequences of a step. Nothing is allocated for a decode step, so that it may be captured.
    """

    def __init__(self, *, max_seqs: int, num_heads: int, head_dim: int, device: torch.device) -> None:
        self._max_seqs = max_seqs
        self._work = Workspace.allocate(max_seqs, num_heads, head_dim, device)

    def __call__(self, call: Call) -> None:
        settings, fp8 = call.settings, call.cache.dtype == torch.float8_e4m3fn
        scales = (settings.k_scale, settings.v_scale) if fp8 else (1.0, 1.0)
        paged = Paged(
            cache=call.cache,
            page_table=call.batch.page_table,
            rows=None,
            lengths=call.batch.kv_lengths,
            window=settings.window,
            scale=settings.scale,
            kv_scales=scales,
        )
        with on_stream(call):
            write(call.k, call.v, call.batch.slots, call.cache, scales)
            attend(call.q, paged, self._step(call), call.out.view(call.q.shape), self._work)

    def _step(self, call: Call) -> CudaBatch:
        num_tokens, num_heads, dim = call.q.shape
        num_seqs, max_pages = call.batch.page_table.shape
        num_kv_heads, page = call.cache.shape[2:4]
        group = num_heads // num_kv_heads
        batch = {name: getattr(call.batch, name) for name in type(call.batch).__dataclass_fields__}
        if num_tokens == num_seqs:
            choice = choose_decode(num_seqs, num_kv_heads, group, dim, call.cache.dtype, max_pages * page)
            return CudaBatch(**batch, num_decodes=num_seqs, decode_choice=choice, all_rows=True)
        tokens = prefill_rows(group, dim) // group
        tiles = device_tiles(call.batch.query_starts, num_tokens, tokens, max_seqs=self._max_seqs)
        return CudaBatch(**batch, tiles=tiles)


def on_stream(call: Call) -> AbstractContextManager[None]:
    """Kernels follow torch's current stream; in Triton's interpreter, on host memory, there is none."""
    if call.q.device.type != "cuda":
        return nullcontext()
    return torch.cuda.stream(torch.cuda.ExternalStream(call.stream, device=call.q.device))
