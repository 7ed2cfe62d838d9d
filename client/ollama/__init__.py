"""Ollama's API over any Backend."""
