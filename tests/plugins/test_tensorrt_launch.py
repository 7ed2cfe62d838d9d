"""The plugin's enqueue with the kernels it launches for real: on host memory in Triton's interpreter, and on a GPU.

On a GPU it runs without any TensorRT, the plugin's base classes then being empty ones. To run it over TensorRT's own
classes there, install the wheel tensorrt_cu13_bindings (1.2 MB on PyPI, and a C compiler: tests/tensorrt_classes.py) or
tensorrt_rtx: `make gpu-test` picks up whichever imports.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.exactness import assert_as_exact_as_torch
from tests.tensorrt_classes import plugin_bases
from torch import Tensor

from ingot.network.ops import Batch
from ingot.plugins.attention import batched, reference
from ingot.plugins.attention.prefill import device_tiles
from ingot.plugins.attention.tensorrt_launch import KernelLaunch
from ingot.plugins.attention.tensorrt_plugin import Settings, plugin_class
from ingot.plugins.attention.tiles import plan_tiles

NAMES = {torch.float16: "HALF", torch.bfloat16: "BF16", torch.float8_e4m3fn: "FP8", torch.int32: "INT32"}
HEADS, KV_HEADS, DIM, PAGE = 8, 2, 64, 16
MAX_SEQS = 16
STEPS = {  # new tokens and whole lengths of each sequence, and the window
    "decode": ([1, 1, 1, 1], [1, 33, 150, 300], 0),
    "decode-window": ([1, 1, 1], [20, 90, 49], 50),
    "prefill": ([40, 70], [40, 90], 0),
    "mixed": ([1, 70, 1, 5], [90, 70, 16, 33], 50),
}
GPU = pytest.mark.gpu
TYPES = [
    pytest.param("cpu", torch.float16, torch.float16, id="cpu-fp16"),
    pytest.param("cpu", torch.float16, torch.float8_e4m3fn, id="cpu-fp16-fp8"),
    pytest.param("cuda", torch.float16, torch.float16, id="fp16", marks=GPU),
    pytest.param("cuda", torch.float16, torch.float8_e4m3fn, id="fp16-fp8", marks=GPU),
    pytest.param("cuda", torch.bfloat16, torch.bfloat16, id="bf16", marks=GPU),
    pytest.param("cuda", torch.bfloat16, torch.float8_e4m3fn, id="bf16-fp8", marks=GPU),
]


@dataclass
class Step:
    """The plugin's inputs. `cache` (2, P, K, B, D) holds what earlier steps left."""

    q: Tensor
    k: Tensor
    v: Tensor
    cache: Tensor
    batch: Batch[Tensor]
    settings: Settings

    @property
    def inputs(self) -> list[Tensor]:
        b = self.batch
        return [self.q, self.k, self.v, self.cache, b.slots, b.page_table, b.query_starts, b.kv_lengths]

    def expected(self, dtype: torch.dtype, plain: bool) -> Tensor:
        """The reference over a copy of the cache, or plain PyTorch, with queries in `dtype`."""
        ours = self.cache.view(raw(self.cache)).transpose(2, 3).contiguous().view(self.cache.dtype)
        batch = Batch(**{field.name: getattr(self.batch, field.name).long() for field in fields(Batch)})
        scales = torch.tensor([self.settings.k_scale, self.settings.v_scale], device=self.q.device)
        arguments = (self.q.to(dtype), self.k, self.v, ours, batch)
        window = self.settings.window
        if not plain:
            return reference.attention(*arguments, window=window, kv_scale=scales)
        plan = batched.plan_attention(batch, ours, [window], dtype)
        return batched.attention(*arguments, plan, window=window, kv_scale=scales)


def raw(tensor: Tensor) -> torch.dtype:
    return torch.uint8 if tensor.dtype == torch.float8_e4m3fn else tensor.dtype


def make_step(
    device: str, dtype: torch.dtype, kv: torch.dtype, counts: list[int], lengths: list[int], window: int
) -> Step:
    per_seq = [-(-length // PAGE) for length in lengths]
    num_pages = sum(per_seq) + 2
    order = random.sample(range(num_pages), sum(per_seq))
    table = torch.zeros(len(lengths), max(per_seq) + 1, dtype=torch.int32)
    slots: list[int] = []
    for s, (count, length) in enumerate(zip(counts, lengths, strict=True)):
        pages = [order.pop() for _ in range(per_seq[s])]
        table[s, : len(pages)] = torch.tensor(pages)
        slots += [pages[p // PAGE] * PAGE + p % PAGE for p in range(length - count, length)]
    starts = torch.tensor([0, *counts]).cumsum(0)
    ints = [x.to(torch.int32).to(device) for x in (torch.tensor(slots), table, starts, torch.tensor(lengths))]
    q = torch.randn(sum(counts), HEADS, DIM).to(dtype).to(device)
    # Multiples that e4m3 holds: the interpreter breaks ties in rounding to it as no GPU does.
    new = torch.randn(2, sum(counts), KV_HEADS, DIM).to(torch.float8_e4m3fn).float()
    k, v = ((side * scale).to(dtype).to(device) for side, scale in zip(new, (0.5, 2.0), strict=True))
    cache = torch.randn(2, num_pages, KV_HEADS, PAGE, DIM).to(kv).to(device)
    unused = ints[0]
    batch = Batch(
        token_ids=unused, positions=unused, logit_rows=unused, slots=ints[0], page_table=ints[1], query_starts=ints[2],
        kv_lengths=ints[3],
    )  # fmt: skip
    settings = Settings(scale=DIM**-0.5, window=window, k_scale=0.5, v_scale=2.0)
    return Step(q, k, v, cache, batch, settings)


def make_plugin(step: Step) -> Any:
    device = step.q.device
    launch = KernelLaunch(max_seqs=MAX_SEQS, num_heads=HEADS, head_dim=DIM, device=device)
    return plugin_class(plugin_bases(), launch, device.type)(step.settings)


def enqueue(plugin: Any, step: Step, out: Tensor, stream: int) -> None:
    described = [SimpleNamespace(dims=tuple(x.shape), type=SimpleNamespace(name=NAMES[x.dtype])) for x in step.inputs]
    result = SimpleNamespace(dims=(len(out), HEADS * DIM), type=described[0].type)
    addresses = [x.data_ptr() for x in step.inputs]
    plugin.enqueue(described, [result, described[3]], addresses, [out.data_ptr(), step.cache.data_ptr()], 0, stream)


def outputs(step: Step) -> Tensor:
    return torch.full((step.q.shape[0], HEADS * DIM), float("nan"), dtype=step.q.dtype, device=step.q.device)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize(("device", "dtype", "kv"), TYPES)
def test_enqueue_is_the_reference(device: str, dtype: torch.dtype, kv: torch.dtype, kind: str) -> None:
    step = make_step(device, dtype, kv, *STEPS[kind])
    plugin, out = make_plugin(step), outputs(step)
    truth, plain = step.expected(torch.float32, False), step.expected(dtype, True)
    if device == "cuda":
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        enqueue(plugin, step, outputs(step), side.cuda_stream)  # loads the kernels, which may wait
        torch.cuda.set_sync_debug_mode("error")
        try:
            enqueue(plugin, step, out, side.cuda_stream)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        side.synchronize()
    else:
        enqueue(plugin, step, out, 0)
    assert_as_exact_as_torch(out, plain, truth)


def test_padding_is_neither_written_nor_read() -> None:
    """A decode graph's bucket is larger than its batch: rows of length 0 whose slot is -1."""
    step = make_step("cpu", torch.float16, torch.float16, [1, 1, 1], [20, 33, 5], 0)
    truth = step.expected(torch.float32, False)
    plain = step.expected(torch.float16, True)
    for tensor, padding in ((step.batch.slots, -1), (step.batch.kv_lengths, 0)):
        tensor[1] = padding
    before, out = step.cache.clone(), outputs(step)
    enqueue(make_plugin(step), step, out, 0)
    kept = torch.tensor([0, 2])
    assert_as_exact_as_torch(out[kept], plain[kept], truth[kept])
    assert out[1].isnan().all()
    changed = (step.cache != before).flatten(4).any(-1).nonzero()
    assert len(changed) == 2 * 2 * KV_HEADS, "keys and values of two tokens"


def test_tiles_planned_on_the_device_are_the_hosts() -> None:
    counts = [1, 64, 33, 200, 7]
    starts = torch.tensor([0, *counts]).cumsum(0).to(torch.int32)
    tiles = device_tiles(starts, sum(counts), 32, max_seqs=MAX_SEQS)
    found = list(zip(tiles.seqs.tolist(), tiles.starts.tolist(), strict=True))
    real = [(seq, start) for seq, start in found if start < counts[seq]]
    assert sorted(real) == sorted(plan_tiles(counts, 32))


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "kv"), [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.float8_e4m3fn)])
def test_a_captured_enqueue_follows_what_its_inputs_hold(dtype: torch.dtype, kv: torch.dtype) -> None:
    step = make_step("cuda", dtype, kv, *STEPS["decode"])
    plugin, out = make_plugin(step), outputs(step)
    enqueue(plugin, step, out, torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        enqueue(plugin, step, out, torch.cuda.current_stream().cuda_stream)
    later = make_step("cuda", dtype, kv, [1, 1, 1, 1], [300, 150, 33, 1], 0)
    for old, new in zip(step.inputs, later.inputs, strict=True):
        old.view(raw(old)).copy_(new.view(raw(new)))
    graph.replay()
    torch.cuda.synchronize()
    assert_as_exact_as_torch(out, later.expected(dtype, True), later.expected(torch.float32, False))
