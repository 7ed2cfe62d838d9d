"""Greedy sampling on the GPU."""
