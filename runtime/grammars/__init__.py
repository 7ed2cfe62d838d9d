"""Grammars to token masks: checked in the server, compiled in a process of their own, followed in the sampler. Knows no HTTP."""
