"""Asking an engine: the gRPC client library and the OpenAI-compatible server. Imports neither torch nor transformers."""
