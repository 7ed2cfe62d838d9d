"""RoPE against transformers': equal to the bit."""

from __future__ import annotations

import pytest
import torch

from ingot.plugins.rms_norm.reference import rms_norm
from ingot.plugins.rope.reference import cos_sin, rotate, split_and_rotate

both = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@both
def test_rope(dtype: torch.dtype) -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    positions = torch.tensor([0, 1, 5, 100, 4000])
    frequencies = [10000 ** (-i / 8) for i in range(8)]
    cos, sin = cos_sin(positions, frequencies, dtype)
    assert cos.shape == sin.shape == (5, 1, 16)
    qkv = torch.randn(5, (4 + 2 + 2) * 16).to(dtype)
    q, k, v = split_and_rotate(qkv, cos, sin, num_heads=4, num_kv_heads=2)
    heads = qkv.view(5, 8, 16)
    double = [cos.transpose(0, 1), torch.cat((sin[..., 8:], sin[..., 8:]), dim=-1).transpose(0, 1)]
    theirs = apply_rotary_pos_emb(
        heads[:, :4].unsqueeze(0).transpose(1, 2), heads[:, 4:6].unsqueeze(0).transpose(1, 2), *double
    )
    assert torch.equal(q, theirs[0][0].transpose(0, 1))
    assert torch.equal(k, theirs[1][0].transpose(0, 1))
    assert torch.equal(v, heads[:, 6:])


def test_query_and_key_norms_come_before_rotation() -> None:
    cos, sin = cos_sin(torch.tensor([3, 9]), [1.0, 0.1], torch.float32)
    qkv, weights = torch.randn(2, 4 * 4), (torch.rand(4) + 1, torch.rand(4) + 1)
    q, k, _ = split_and_rotate(qkv, cos, sin, num_heads=2, num_kv_heads=1, norms=weights, eps=1e-6)
    heads = qkv.view(2, 4, 4)
    assert torch.equal(q, rotate(rms_norm(heads[:, :2], weights[0], 1e-6), cos, sin))
    assert torch.equal(k, rotate(rms_norm(heads[:, 2:3], weights[1], 1e-6), cos, sin))
