"""Kernels: one folder per op with its reference, its fast versions and its TensorRT plugin. Knows tensors, not requests."""

import os

# Without a workspace cuBLASLt's FP8 products share out their tiles by themselves; with one they count them in memory that is cleared
# before each, on the critical path: 1.2 % of a layer's linears at 8192 rows, 2 % at 768. PyTorch reads this at its first such product.
os.environ.setdefault("CUBLASLT_WORKSPACE_SIZE", "0")
