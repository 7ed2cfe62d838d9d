"""The libraries an engine was built with, for its manifest and for the keys of stages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("torch", "safetensors", "transformers", "tokenizers", "huggingface_hub", "nvidia-modelopt")


def library_versions(*more: str) -> dict[str, str]:
    found = {}
    for name in (*LIBRARIES, *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
