"""Text Generation Inference's own API over any Backend."""
