"""The Triton model repository and deployment manifests, as strict templates. Imports neither torch nor the runtime."""

from ingot.templates.deployment import Deployment, ModelSpec

__all__ = ["Deployment", "ModelSpec"]
