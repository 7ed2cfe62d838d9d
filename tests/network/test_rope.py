"""RoPE's frequencies against transformers' own."""

from __future__ import annotations

import pytest
import torch

from ingot.network.config import ModelConfig
from ingot.network.rope import inverse_frequencies

LLAMA31 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize("rope", [{"rope_type": "default", "rope_theta": 1e6}, LLAMA31])
def test_frequencies_are_those_of_transformers(rope: dict[str, float | str]) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    theirs = LlamaConfig(hidden_size=512, num_attention_heads=4, rope_parameters=dict(rope), num_hidden_layers=1)
    expected = LlamaRotaryEmbedding(theirs).inv_freq
    ours = inverse_frequencies(ModelConfig.from_hf(theirs.to_dict()))
    torch.testing.assert_close(torch.tensor(ours), expected, rtol=1e-6, atol=0)
