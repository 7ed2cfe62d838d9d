"""The vocabulary a decoder is written in. An interpreter gives each word a meaning.

Reference ops compute it in PyTorch, CUDA ops launch fused kernels, ONNX ops emit graph nodes: `T` is then a tensor, a
device buffer (possibly already quantized for the next GEMM) or a graph value.

Shape letters, used all over the project:
    T tokens of the step, flat and ragged    S sequences of the step      R rows that need logits
    H query heads     K key/value heads      D head dim                   C hidden size
    F MLP width       V vocabulary           P pages in the pool          B slots in one page
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Generic[T]):
    """The tokens of one step, without padding and without a batch dimension.

    Sequence s owns rows query_starts[s] : query_starts[s + 1]. Its rows are the last tokens of a context of kv_lengths[s].
    """

    token_ids: T  # (T,)
    positions: T  # (T,)       position of each token in its sequence
    slots: T  # (T,)           where its key and value go: page * page_size + offset
    page_table: T  # (S, pages)  pages of each sequence in order; entries past the context are arbitrary
    query_starts: T  # (S + 1,)
    kv_lengths: T  # (S,)       context length once this step's tokens are in
    logit_rows: T  # (R,)       rows of the flat batch whose logits are wanted


class Ops(Protocol[T]):
    """One method per operation; `name` is a canonical weight name (see weights.py)."""

    def embedding(self, name: str, token_ids: T) -> T:
        """(T,) -> (T, C)."""
        ...

    def rms_norm(self, name: str, x: T) -> T:
        """(T, C) -> (T, C). Root-mean-square norm in float32 (arXiv:1910.07467)."""
        ...

    def add_rms_norm(self, name: str, x: T, residual: T) -> tuple[T, T]:
        """Adds x to the residual stream: returns (norm(x + residual), x + residual)."""
        ...

    def linear(self, name: str, x: T) -> T:
        """(T, in) -> (T, out). The only op that knows how weights are quantized."""
        ...

    def rope(self, layer: int, qkv: T, batch: Batch[T]) -> tuple[T, T, T]:
        """(T, (H + 2K) * D) -> q (T, H, D), k (T, K, D), v (T, K, D): split, q/k norm where the model has it, rotate."""
        ...

    def attention(self, layer: int, q: T, k: T, v: T, batch: Batch[T]) -> T:
        """Causal attention over the paged context; returns (T, H * D).

        When it returns, k and v lie in the layer's cache at batch.slots: whether rope or attention writes them is the
        interpreter's own affair.
        """
        ...

    def silu_mul(self, gate_up: T) -> T:
        """(T, 2F) -> (T, F): silu of the first half times the second."""
        ...

    def wanted_attention(self, layer: int, x: T, batch: Batch[T]) -> T:
        """(T, C) -> (R, H * D): decoder.attention_block, of the rows batch.logit_rows. The cache gets keys and values of all T."""
        ...

    def wanted_rows(self, x: T, batch: Batch[T]) -> T:
        """(T, ...) -> (R, ...): the rows batch.logit_rows of x."""
        ...

    def logits(self, name: str, x: T) -> T:
        """(R, C) -> (R, V) in float32."""
        ...
