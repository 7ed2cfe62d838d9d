"""Anthropic's Messages API over any Backend."""
