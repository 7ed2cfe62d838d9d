"""Copies between host and GPU for which the host does not wait: pinned, in order with the device's stream. On a CPU, plain."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def put(values: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """Values of the host on `device`; the host's own may change or go at once."""
    host = values if isinstance(values, Tensor) else torch.from_numpy(values)
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


def fetch(values: Tensor) -> Tensor:
    """On the host, once the stream has come this far: see CudaTicket. Values that are there already are themselves."""
    if values.device.type != "cuda":
        return values
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True)
