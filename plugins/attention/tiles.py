"""How prompts are cut into the tiles of the prefill kernel. Plain integers: no torch, no Triton."""

from __future__ import annotations


def prefill_rows(group: int, dim: int) -> int:
    """Query rows (token x head of the group) of one prefill tile."""
    return 128 if dim <= 128 and group <= 64 else 64


def plan_tiles(counts: list[int], tokens_per_tile: int) -> list[tuple[int, int]]:
    """(sequence, first token) of every tile, for sequences with `counts` query tokens each."""
    tiles = [(seq, start) for seq, count in enumerate(counts) for start in range(0, count, tokens_per_tile)]
    return sorted(tiles, key=lambda tile: -tile[1])
