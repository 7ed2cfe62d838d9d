"""ONNX graphs executed by ONNX's own reference evaluator, the two operators it lacks computed by ingot's references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import Tensor

from ingot.builder.onnx import write_model
from ingot.network.ops import Batch
from ingot.plugins.attention.reference import attention
from ingot.plugins.quantize.reference import E2M1_MAX, e2m1_codes, e2m1_values, quantize_fp8

Array = npt.NDArray[Any]


def evaluator(model: ir.Model, folder: Path) -> ReferenceEvaluator:
    """Through the files that the exporter writes, so that the streamed weights are what is read."""
    write_model(model, folder / "model.onnx")
    return ReferenceEvaluator(onnx.load(folder / "model.onnx"), new_ops=[PagedAttention, TRT_FP4DynamicQuantize])


class PagedAttention(OpRun):  # type: ignore[misc]
    op_domain = "ingot"

    def _run(
        self, q: Array, k: Array, v: Array, cache: Array, *metadata: Array, **attributes: Any
    ) -> tuple[Array, Array]:
        slots, page_table, query_starts, kv_lengths = (torch.from_numpy(x).long() for x in metadata)
        unused = torch.empty(0)
        batch = Batch(
            token_ids=unused,
            positions=unused,
            logit_rows=unused,
            slots=slots,
            page_table=page_table,
            query_starts=query_starts,
            kv_lengths=kv_lengths,
        )
        query, key, value = (torch.from_numpy(np.array(x)) for x in (q, k, v))
        ours = to_torch(cache).transpose(2, 3).contiguous()  # (2, P, K, B, D) -> (2, P, B, K, D)
        scales = torch.tensor([attributes["k_scale"], attributes["v_scale"]])
        assert abs(attributes["scale"] - q.shape[-1] ** -0.5) < 1e-7
        out = attention(query, key, value, ours, batch, window=attributes["window"], kv_scale=scales)
        return out.numpy(), from_torch(ours.transpose(2, 3).contiguous(), cache.dtype)


class TRT_FP4DynamicQuantize(OpRun):  # type: ignore[misc]
    op_domain = "trt"

    def _run(self, x: Array, second: Array, axis: int, block_size: int, scale_type: int) -> tuple[Array, Array]:
        assert (axis, scale_type) == (-1, onnx.TensorProto.FLOAT8E4M3FN)
        codes, blocks = fp4_blocks(torch.from_numpy(np.array(x)), torch.tensor(second.item()), block_size)
        values = e2m1_values(codes).numpy().astype(ml_dtypes.float4_e2m1fn)
        return values, blocks.float().numpy().astype(ml_dtypes.float8_e4m3fn)


def fp4_blocks(x: Tensor, second: Tensor, block_size: int = 16) -> tuple[Tensor, Tensor]:
    """E2M1 codes of x (T, K) and the e4m3 scales of its blocks, as NVFP4 defines them."""
    parts = x.float().unflatten(-1, (-1, block_size))
    blocks = quantize_fp8(parts.abs().amax(-1) / E2M1_MAX, second)
    step = (blocks.float() * second).unsqueeze(-1)
    return e2m1_codes(torch.where(step > 0, parts / step, torch.zeros_like(parts))).flatten(-2), blocks


def to_torch(x: Array) -> Tensor:
    if x.dtype == ml_dtypes.float8_e4m3fn:
        return torch.from_numpy(x.view(np.uint8).copy()).view(torch.float8_e4m3fn)
    return torch.from_numpy(np.array(x))


def from_torch(x: Tensor, dtype: Any) -> Array:
    return x.view(torch.uint8).numpy().view(dtype) if x.dtype == torch.float8_e4m3fn else x.numpy()
