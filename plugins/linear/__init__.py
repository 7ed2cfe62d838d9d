"""The matrix product with a weight of any scheme."""
