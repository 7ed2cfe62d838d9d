"""Number formats: scales, rounding and packing of FP8, INT8, INT4 and NVFP4. Knows tensors, not layers."""
