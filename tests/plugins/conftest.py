"""Kernels run twice: on the CPU in Triton's interpreter with every test run, compiled on a GPU with `make gpu-test`."""

from __future__ import annotations

import pytest
import torch

GPU = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture(params=["cpu", GPU])
def device(request: pytest.FixtureRequest) -> torch.device:
    torch.manual_seed(torch.seed() % 2**31)
    return torch.device(request.param)


@pytest.fixture
def dtype(device: torch.device) -> torch.dtype:
    """The interpreter's bf16 products are wrong: on the CPU kernels run in float16."""
    return torch.bfloat16 if device.type == "cuda" else torch.float16
