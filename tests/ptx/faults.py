"""What a kernel did wrong, in words that name its line."""

from __future__ import annotations


class Fault(Exception):
    """A kernel broke a rule of PTX, or this interpreter does not know an instruction."""
