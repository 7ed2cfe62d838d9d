"""Kernels: one folder per op with its reference, its fast versions and its TensorRT plugin. Knows tensors, not requests."""
