"""The one rule of tolerance: a kernel errs at most twice as much as plain PyTorch does in the same dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_as_exact_as_torch(kernel: Tensor, plain: Tensor, truth: Tensor) -> None:
    """`truth` is float32 or better from the same inputs, `plain` what PyTorch makes of them in the kernel's dtype.

    Errors are compared as norms over the whole result, and at the worst element with the slack that one sample needs.
    """
    assert kernel.shape == truth.shape
    assert torch.isfinite(kernel.float()).all(), "an element was never written, or overflowed"
    truth = truth.double()
    error, allowed = (kernel.double() - truth).abs(), (plain.double() - truth).abs()
    least = torch.finfo(plain.dtype).eps / 4 * truth.abs()  # plain PyTorch may be exact by luck
    allowed = torch.maximum(allowed, least)
    ratio = (error.norm() / allowed.norm()).item()
    assert ratio <= 2, f"the error is {ratio:.2f} times PyTorch's"
    worst = (error.max() / allowed.max()).item()
    assert worst <= 4, f"the worst element's error is {worst:.2f} times PyTorch's worst"
