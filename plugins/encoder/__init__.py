"""The encoder's words in PyTorch, and the reading of an encoder engine's weights."""
