"""The attention kernels' arithmetic in PyTorch: for tests of what surrounds them, which Triton's interpreter would make slow."""

from __future__ import annotations

import pytest
from torch import Tensor

from ingot.plugins.attention import layers, tensorrt_launch
from ingot.plugins.attention import reference as truth
from ingot.plugins.attention.launch import Paged, Workspace
from ingot.plugins.attention.step import CudaBatch


def write(k: Tensor, v: Tensor, slots: Tensor, cache: Tensor, kv_scales: tuple[float, float]) -> None:
    page = cache.shape[3]
    for token, slot in enumerate(slots.tolist()):
        if slot >= 0:
            for side, (new, scale) in enumerate(zip((k, v), kv_scales, strict=True)):
                cache[side, slot // page, :, slot % page] = (new[token] / scale).to(cache.dtype)


def attend(q: Tensor, paged: Paged, step: CudaBatch, out: Tensor, work: Workspace) -> None:
    lengths = paged.lengths.tolist()
    rows = list(range(len(lengths))) if paged.rows is None else paged.rows.tolist()
    starts = list(range(len(lengths) + 1)) if step.all_rows else step.query_starts.tolist()
    for s, length in enumerate(lengths):
        if length:
            pages = paged.page_table[rows[s], : -(-length // paged.cache.shape[3])].long()
            keys, values = paged.cache[:, pages].float().transpose(2, 3).flatten(1, 2)[:, :length]
            part = slice(starts[s], starts[s + 1])
            found = truth.attend(q[part].float(), keys * paged.kv_scales[0], values * paged.kv_scales[1], paged.window)
            out[part] = found.to(out.dtype)


@pytest.fixture
def host_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (layers, tensorrt_launch):
        monkeypatch.setattr(module, "write", write)
        monkeypatch.setattr(module, "attend", attend)
    monkeypatch.setattr(tensorrt_launch, "device_tiles", lambda *args, **named: None)
