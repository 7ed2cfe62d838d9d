"""Checkpoint in, engine folder out: quantize, compile, verify. Knows no HTTP and no scheduling."""
