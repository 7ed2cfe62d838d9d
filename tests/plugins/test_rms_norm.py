"""RMS norm against transformers': equal to the bit in bfloat16, to the last place in float32."""

from __future__ import annotations

import pytest
import torch

from ingot.plugins.rms_norm.reference import add_rms_norm, rms_norm

both = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@both
def test_rms_norm(dtype: torch.dtype) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    theirs = LlamaRMSNorm(64, eps=1e-5).to(dtype)
    theirs.weight.data = torch.randn(64).to(dtype)
    x, residual = torch.randn(2, 7, 64).to(dtype)
    bound = torch.finfo(dtype).eps if dtype == torch.float32 else 0
    expected = theirs(x)
    assert ((rms_norm(x, theirs.weight, 1e-5) - expected).abs() <= 4 * bound * expected.abs()).all()
    normed, total = add_rms_norm(x, residual, theirs.weight, 1e-5)
    assert torch.equal(total, residual + x)
    assert torch.equal(normed, rms_norm(total, theirs.weight, 1e-5))
