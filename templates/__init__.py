"""The Triton model repository and deployment manifests, as strict templates. Imports neither torch nor the runtime."""
