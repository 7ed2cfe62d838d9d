"""Rotary position embedding of queries and keys, with the split of the fused projection before it."""
