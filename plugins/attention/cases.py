"""Attention in paged caches as trials and tests ask for it: random pages in random order, stale slots that hold NaN, and the float32
truth. Knows how each way is launched, not which is to be taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ingot.network.config import ModelConfig
from ingot.network.rope import inverse_frequencies
from ingot.plugins.attention.launch import Paged, Rotation, Workspace, choose_decode, decode, rotate_and_decode
from ingot.plugins.attention.prefill import PrefillChoice, Tiles, prefill, rotate_and_prefill
from ingot.plugins.attention.reference import attend
from ingot.plugins.attention.tiles import plan_tiles, prefill_rows
from ingot.plugins.rope.launch import rope_and_write, rope_table
from ingot.plugins.rope.reference import cos_sin, split_and_rotate


class PrefillCase:
    """Prompts of `counts` new tokens at the ends of contexts of `lengths`, in pages in random order; stale slots hold NaN."""

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, kv_dtype: torch.dtype, page: int, counts: list[int], lengths: list[int],
        device: str = "cuda", window: int = 0,
    ) -> None:  # fmt: skip
        heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
        pages = [-(-length // page) for length in lengths]
        order = torch.randperm(sum(pages), device=device).int()
        self.counts, self.lengths = counts, lengths
        self.keys = [torch.randn(2, n, kv_heads, dim, device=device).to(kv_dtype) for n in lengths]
        stale = torch.full((2, sum(pages), page, kv_heads, dim), float("nan"), device=device).to(kv_dtype)
        table = torch.zeros(len(lengths), max(pages), dtype=torch.int32, device=device)
        for s, (own, used) in enumerate(zip(order.split(pages), self.keys, strict=True)):
            table[s, : pages[s]] = own
            filled = torch.full((2, pages[s] * page, kv_heads, dim), float("nan"), device=device).to(kv_dtype)
            filled[:, : lengths[s]] = used
            bits = stale.view(torch.uint8) if kv_dtype.itemsize == 1 else stale
            bits[:, own.long()] = (filled.view(torch.uint8) if kv_dtype.itemsize == 1 else filled).view(
                2, pages[s], page, kv_heads, dim
            )
        self.q = torch.randn(sum(counts), heads, dim, device=device).to(dtype)
        rows = torch.arange(len(lengths), dtype=torch.int32, device=device)
        self.paged = Paged(
            cache=stale.transpose(2, 3).contiguous(), page_table=table, rows=rows, window=window,
            lengths=torch.tensor(lengths, dtype=torch.int32, device=device),
        )  # fmt: skip
        group = heads // kv_heads
        columns = zip(*plan_tiles(counts, prefill_rows(group, dim) // group), strict=True)
        seqs, starts = (torch.tensor(column, dtype=torch.int32, device=device) for column in columns)
        self.tiles = Tiles(seqs=seqs, starts=starts)
        self.starts = torch.tensor([0, *counts], device=device).cumsum(0).int()

    def run(self, choice: object) -> Tensor:
        assert isinstance(choice, PrefillChoice)
        out = torch.full_like(self.q, float("nan"))
        prefill(self.q, self.paged, self.starts, self.tiles, out, choice)
        return out

    def truth(self) -> Tensor:
        parts = zip(self.q.float().split(self.counts), self.keys, strict=True)
        return torch.cat([attend(q, kv[0].float(), kv[1].float(), self.paged.window) for q, kv in parts])


class RotationCase:
    """The qkv product of new tokens at the ends of contexts of `lengths`, whose newest slots and all stale ones hold NaN: one
    of each, which decodes, or prompts of `counts`."""

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, kv_dtype: torch.dtype, page: int, lengths: list[int], device: str = "cuda",
        *, counts: list[int] | None = None, window: int = 0,
    ) -> None:  # fmt: skip
        self.config, self.prompts = config, counts is not None
        counts = counts or [1] * len(lengths)
        heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.past = PrefillCase(config, dtype, kv_dtype, page, counts, lengths, device, window)
        self.paged = self.past.paged
        places = [range(length - count, length) for count, length in zip(counts, lengths, strict=True)]
        self.positions = torch.tensor(
            [position for part in places for position in part], dtype=torch.int32, device=device
        )
        self.qkv = torch.randn(sum(counts), (heads + 2 * kv_heads) * dim, device=device).to(dtype)
        norms = [torch.rand(dim, device=device).to(dtype) + 0.5 for _ in range(2)] if config.qk_norm else None
        self.norms = None if norms is None else (norms[0], norms[1])
        self.frequencies = inverse_frequencies(config)
        self.table = rope_table(self.frequencies, max(lengths), self.positions.device)
        self.work = Workspace.allocate(len(lengths), heads, dim, self.positions.device)
        seqs = torch.arange(len(lengths), device=device).repeat_interleave(torch.tensor(counts, device=device))
        self.slots = self.paged.page_table[seqs, self.positions // page] * page + self.positions % page
        group = heads // kv_heads
        self.choice = choose_decode(len(lengths), kv_heads, group, dim, kv_dtype, max(lengths))

    def newest(self) -> Tensor:
        """(2, T, K, D) keys and values at the newest slots."""
        page = self.paged.cache.shape[3]
        return self.paged.cache.transpose(0, 1)[self.slots.long() // page, :, :, self.slots.long() % page].transpose(
            0, 1
        )

    def run(self, within: object, out: Tensor | None = None) -> Tensor:
        """`within`: attention rotates queries, and where they decode keys too."""
        config, past = self.config, self.past
        out = torch.empty_like(past.q) if out is None else out
        rotation = Rotation(table=self.table, norms=self.norms, eps=config.rms_norm_eps)
        if within and not self.prompts:
            rotate_and_decode(self.qkv, rotation, self.paged, out, self.work, self.choice)
            return out
        q = rope_and_write(
            self.qkv, self.positions, self.slots, self.table, self.paged.cache, num_heads=config.num_heads, norms=self.norms,
            eps=config.rms_norm_eps, kv_scales=self.paged.kv_scales, rotated=0 if within else None,
        )  # fmt: skip
        if within:
            rotate_and_prefill(self.qkv, rotation, self.paged, past.starts, past.tiles, out)
        elif self.prompts:
            prefill(q, self.paged, past.starts, past.tiles, out, PrefillChoice(cuda=True))
        else:
            decode(q, self.paged, out, self.work, self.choice)
        return out

    def check(self, within: object) -> Tensor:
        """The output, then what was written, from a poisoned output and poisoned slots."""
        page, at = self.paged.cache.shape[3], self.slots.long()
        bits = (
            self.paged.cache.view(torch.uint8)
            if self.paged.cache.dtype.itemsize == 1
            else self.paged.cache.view(torch.int16)
        )
        bits[:, at // page, :, at % page] = 0x7F if self.paged.cache.dtype.itemsize == 1 else 0x7FC0  # NaN
        out = self.run(within, torch.full_like(self.past.q, float("nan")))
        return torch.cat((out.float().flatten(), self.newest().float().flatten()))

    def truth(self) -> Tensor:
        config, kv_dtype = self.config, self.paged.cache.dtype
        cos, sin = cos_sin(self.positions, self.frequencies, torch.float32)
        norms = None if self.norms is None else (self.norms[0].float(), self.norms[1].float())
        q, k, v = split_and_rotate(
            self.qkv.float(), cos, sin, num_heads=config.num_heads, num_kv_heads=config.num_kv_heads, norms=norms,
            eps=config.rms_norm_eps,
        )  # fmt: skip
        outs, counts = [], self.past.counts
        new = torch.stack((k, v)).to(self.qkv.dtype).to(kv_dtype).float().split(counts, 1)
        for part, kept, newest in zip(q.split(counts), self.past.keys, new, strict=True):
            keys, values = torch.cat((kept[:, : -len(part)].float(), newest), 1)
            outs.append(attend(part, keys, values, self.paged.window))
        return torch.cat((torch.cat(outs).flatten(), k.flatten(), v.flatten()))
