"""The gated MLP's activation."""
