"""TMA boxes, multicast, clusters and the widest products in the interpreter: a small kernel of all of them, right and with mistakes."""

from __future__ import annotations

import ctypes
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from tests.plugins.test_ptx_faults import mistaken
from tests.ptx.faults import Fault
from tests.ptx.launch import PtxKernel, Setting, interpreted

from ingot.plugins import cubin
from ingot.plugins.tensor_map import row_boxes

SOURCE = Path(__file__).parents[1] / "ptx" / "boxes.cu"
ROWS, COLUMNS, SLOTS = 64, 256, 2
SLOT_BYTES = (ROWS + COLUMNS) * 128


def multiply(x: torch.Tensor, w: torch.Tensor, cluster: int, setting: Setting | None, source: Path) -> torch.Tensor:
    """x (M, K), w (N, K), both bf16 or both e4m3 -> (M, N) float32. `setting`: of the interpreter; None: on the GPU."""
    (m, k), n = x.shape, w.shape[0]
    out = torch.full((m, n), torch.nan, device=x.device)
    defines = {"CLUSTER": cluster, "KIND": int(x.dtype == torch.float8_e4m3fn), "SLOTS": SLOTS}
    shared, grid = 1024 + SLOTS * SLOT_BYTES, (cluster * -(-m // (ROWS * cluster)), -(-n // COLUMNS), 1)
    with interpreted(setting) if setting else nullcontext():
        kernel = (
            PtxKernel(source, "boxes", tuple(sorted(defines.items())), shared, setting)
            if setting
            else cubin.kernel(source, "boxes", defines, shared=shared)
        )
        maps = [row_boxes(x, ROWS), row_boxes(w, COLUMNS // cluster)]
        sizes = [ctypes.c_int(size) for size in (m, n, k * x.element_size())]
        kernel.launch(grid, 160, [*maps, out, *sizes], overlap=True)
    return out


def check(dtype: torch.dtype, cluster: int, device: str, setting: Setting | None) -> None:
    torch.manual_seed(0)
    k = 480 // dtype.itemsize
    x, w = torch.randn(100, k).to(device, dtype), torch.randn(264, k).to(device, dtype)
    found = multiply(x, w, cluster, setting, SOURCE)
    exact = dtype is torch.bfloat16 or setting  # the tensor cores' own sums of e4m3 keep 14 bits
    bound = 1e-4 if exact else 5e-2
    torch.testing.assert_close(found.double(), x.double() @ w.double().T, rtol=bound, atol=bound)


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("cluster", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_products_of_boxes(dtype: torch.dtype, cluster: int, seed: int | None) -> None:
    """Edges of all kinds: the last box of rows, of columns and of K hangs over."""
    check(dtype, cluster, "cpu", Setting(seed=seed))


@pytest.mark.gpu
@pytest.mark.parametrize("cluster", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_the_gpu_agrees(dtype: torch.dtype, cluster: int) -> None:
    check(dtype, cluster, "cuda", None)


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ("expect(bar, SLOT_BYTES);", "expect(bar, 0);", "a copy is on its way"),
        ("expect(bar, SLOT_BYTES);", "expect(bar, SLOT_BYTES - 128);", "no thread can go on"),
        ("            wait(full + slot * 8, i / SLOTS & 1);\n", "", "a copy is on its way"),
        ("if (i >= SLOTS) wait(empty", "if (false) wait(empty", "more than 1 arrivals"),
        ("#define TAKERS CLUSTER ", "#define TAKERS 1 ", "a copy is on its way"),
        ("meet_cluster();  // everybody's", "__syncthreads();  //", "set up, and no barrier"),
        ('asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");', "", "nobody fenced"),
        ("    meet_cluster();  // nobody leaves", "    //", "end, and no barrier"),
        ("(1 << CLUSTER) - 1, policy", "1 << CLUSTER, policy", "of a cluster of 2"),
        ("bar, (1 << CLUSTER) - 1, policy", "bar, 1 << (rank ^ 1), policy", "no thread can go on"),
        ('asm volatile("griddepcontrol.wait;" ::: "memory");\n', "\n", "before griddepcontrol.wait"),
        ("(u32)__cvta_generic_to_shared(raw) + 1023) & ~1023u", "(u32)__cvta_generic_to_shared(raw))", "forbidden"),
    ],
)  # fmt: skip
def test_mistakes_are_found(right: str, wrong: str, found: str, tmp_path: Path) -> None:
    x, w = torch.randn(128, 192).bfloat16(), torch.randn(256, 192).bfloat16()
    with pytest.raises(Fault, match=found):
        multiply(x, w, 2, Setting(), mistaken(SOURCE, right, wrong, tmp_path))
