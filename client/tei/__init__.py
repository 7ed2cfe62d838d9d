"""Text Embeddings Inference's dialect: /embed, and POST / where the engine is an encoder."""
