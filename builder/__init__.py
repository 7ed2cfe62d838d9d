"""Checkpoint in, engine folder out: quantize, compile, verify. Knows no HTTP and no scheduling."""

from ingot.builder.build import build_engine
from ingot.builder.recipe import Bounds, Recipe

__all__ = ["Bounds", "Recipe", "build_engine"]
