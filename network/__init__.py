"""What a model is: its configuration, its weights' names and its architecture, written once.

Knows nothing of CUDA, TensorRT, requests or HTTP. Importing it does not import torch.
"""

from ingot.network.config import Llama3Rope, ModelConfig
from ingot.network.decoder import decoder
from ingot.network.ops import Batch, Ops
from ingot.network.weights import Scheme, Weight

__all__ = ["Batch", "Llama3Rope", "ModelConfig", "Ops", "Scheme", "Weight", "decoder"]
