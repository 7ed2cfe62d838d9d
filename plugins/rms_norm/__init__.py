"""Root-mean-square norm, alone and after adding to the residual stream."""
