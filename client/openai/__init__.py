"""The OpenAI-compatible HTTP server: wire types, conversion, server-sent events. Knows a Backend and nothing behind it."""
