"""ingot: a Hugging Face checkpoint in, a compiled and checked engine out, served at the speed of the machine."""

from ingot.errors import IngotError

__all__ = ["IngotError", "__version__"]

__version__ = "0.1.0"
