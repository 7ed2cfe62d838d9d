"""silu_mul against its definition: equal to the bit."""

from __future__ import annotations

import pytest
import torch

from ingot.plugins.silu_mul.reference import silu_mul

both = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@both
def test_silu_mul(dtype: torch.dtype) -> None:
    gate_up = torch.randn(5, 24).to(dtype)
    gate, up = gate_up[:, :12], gate_up[:, 12:]
    assert torch.equal(silu_mul(gate_up), torch.nn.SiLU()(gate) * up)
