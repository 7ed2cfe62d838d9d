"""The copy engine's description of a matrix in memory (CUtensorMap of cuda.h), for kernels that fetch boxes of it by
cp.async.bulk.tensor. Knows bytes, rows and boxes, not what the matrix means.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache

from torch import Tensor

from ingot.plugins.cubin import check, driver

SIZE, ALIGNMENT = 128, 64  # bytes of a CUtensorMap
BYTE = 0  # CU_TENSOR_MAP_DATA_TYPE_UINT8
NO_INTERLEAVE, SWIZZLE_128B, PROMOTE_256B, ZEROS_OUTSIDE = 0, 3, 3, 0
BOX_WIDTH = 128  # bytes: what a 128-byte swizzle allows

Words = ctypes.c_ulonglong * (SIZE // 8)


def row_boxes(matrix: Tensor, box_rows: int) -> ctypes.Array[ctypes.c_ulonglong]:
    """Boxes of 128 bytes x `box_rows` (<= 256) rows of a contiguous (R, C), 128-byte swizzled in shared memory, whose row r is
    at 128 r. Rows must be multiples of 16 bytes, and begin at one. Outside the matrix a box holds zeros. Cheap where the same
    memory was described before: the description is of its address and shape, whatever lies there."""
    return describe(matrix.data_ptr(), matrix.shape[0], matrix.shape[1] * matrix.element_size(), box_rows)


@lru_cache(maxsize=4096)
def describe(address: int, rows: int, row_bytes: int, box_rows: int) -> ctypes.Array[ctypes.c_ulonglong]:
    store = (ctypes.c_ubyte * (SIZE + ALIGNMENT))()
    begin = -ctypes.addressof(store) % ALIGNMENT
    made = Words.from_buffer(store, begin)  # keeps `store` alive
    sizes, strides = (ctypes.c_uint64 * 2)(row_bytes, rows), (ctypes.c_uint64 * 1)(row_bytes)
    box, steps = (ctypes.c_uint32 * 2)(BOX_WIDTH, box_rows), (ctypes.c_uint32 * 2)(1, 1)
    status = driver().cuTensorMapEncodeTiled(
        made, BYTE, 2, ctypes.c_void_p(address), sizes, strides, box, steps, NO_INTERLEAVE, SWIZZLE_128B, PROMOTE_256B, ZEROS_OUTSIDE
    )  # fmt: skip
    check(status, f"describe {rows} rows of {row_bytes} bytes")
    return made
