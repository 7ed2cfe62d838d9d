"""Launches the product of gate and up that ends with SiLU (gated.cu), where it fits. Knows tensors and shapes, no model."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from ingot.network.weights import Scheme, Weight
from ingot.plugins.cubin import kernel
from ingot.plugins.device import capability, num_processors
from ingot.plugins.quantize.launch import Quantized, by_one_scale, ending
from ingot.plugins.tensor_map import row_boxes

SOURCE = Path(__file__).with_name("gated.cu")
ROWS, COLUMNS, LINE = 128, 128, 128  # of x and of the output in a tile; bytes of K in a slot
# Bytes: alignment, four slots, outputs on their way, scales.
SHARED = 1024 + 4 * 3 * 128 * LINE + 8 * 16 * 144 + 4 * 1024
WELL_FILLED = 0.9  # of the multiprocessors' time, by whole tiles and whole rounds


def fits_gated(weight: Weight[Tensor], dtype: torch.dtype) -> bool:
    """Whether gated.cu takes this gate and up (2F, K), stacked: on a Hopper GPU."""
    (n, k), bytes_each = weight.data.shape, weight.data.element_size()
    plain = weight.scheme in (Scheme.NONE, Scheme.FP8) and weight.bias is None
    shapes = n % (2 * COLUMNS) == 0 and k * bytes_each % LINE == 0
    return plain and shapes and dtype == torch.bfloat16 and capability() == (9, 0)


def num_tiles(num_rows: int, n: int) -> int:
    """Of a cluster: two by rows of x."""
    return -(-num_rows // (2 * ROWS)) * (n // 2 // COLUMNS)


def well_filled(num_rows: int, n: int) -> bool:
    """Whether tiles of so many rows leave few multiprocessors idle."""
    clusters = num_processors() // 2
    rounds = -(-num_tiles(num_rows, n) // clusters)
    return num_rows * n / (4 * ROWS * COLUMNS) / (rounds * clusters) >= WELL_FILLED


def gated(x: Tensor | Quantized, weight: Weight[Tensor], reader: Weight[Tensor]) -> Tensor | Quantized:
    """x (T, K), rounded already where the scheme rounds, and `weight` (2F, K), gate's rows before up's -> silu(gate) * up (T, F): as
    `reader` wants it where that is by one scale and the product is FP8's, else bf16."""
    values, scales = (x.values, x.scales) if isinstance(x, Quantized) else (x, None)
    num_rows, (n, k) = values.shape[0], weight.data.shape
    rounds = weight.scheme is Scheme.FP8 and by_one_scale(reader)
    end = ending(reader if rounds else None, num_rows, n // 2, values.new_empty(0, dtype=torch.bfloat16))
    defines = {"FP8": int(weight.scheme is Scheme.FP8), "ROUNDS": int(rounds)}
    kernel(SOURCE, "gated", defines, shared=SHARED).launch(
        (2 * min(num_processors() // 2, num_tiles(num_rows, n)), 1, 1), 384,
        [end.out, row_boxes(values, ROWS), row_boxes(weight.data, COLUMNS), scales, weight.weight_scale, ctypes.c_int(num_rows),
         ctypes.c_int(n // 2), ctypes.c_int(k * values.element_size()), end.out_scale, reader.input_scale],
    )  # fmt: skip
    return end.result
