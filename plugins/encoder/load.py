"""An encoder engine's tensors, by canonical names, checked against what its model has. Knows shapes and dtypes, not files."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ingot.network.encoder_config import EncoderConfig
from ingot.network.encoder_names import encoder_shape, encoder_sources, has_bias
from ingot.plugins.load import FLOATS, broken, describe


def read_encoder_tensors(tensors: Mapping[str, Tensor], config: EncoderConfig) -> dict[str, Tensor]:
    """Raises EngineError for a tensor that is missing, superfluous, or of a shape or dtype that the model does not have."""
    wanted = encoder_tensors(config)
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise broken(f"lacks the tensor {missing[0]!r}")
    if foreign := sorted(tensors.keys() - wanted.keys()):
        raise broken(f"has a tensor {foreign[0]!r}, which this model does not")
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape or tensors[name].dtype not in FLOATS:
            raise broken(f"has {name} as {describe(tensors[name])}, not floats {shape}")
    return dict(tensors)


def encoder_tensors(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of an encoder engine and its shape."""
    found: dict[str, tuple[int, ...]] = {}
    for name in encoder_sources(config):
        shape = encoder_shape(config, name)
        found[f"{name}.weight"] = shape
        if has_bias(name):
            found[f"{name}.bias"] = shape[:1]
    return found
