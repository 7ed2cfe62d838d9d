"""The decoder's vocabulary as ONNX nodes: what network/ops.py asks for, emitted instead of computed.

Knows the graph's inputs and outputs; knows nothing of TensorRT, of files to write, or of how a linear is quantized.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ingot.builder.onnx.graph import INGOT_DOMAIN, GraphWriter
from ingot.builder.onnx.linear import linear
from ingot.builder.onnx.weights import EngineWeights
from ingot.network.config import ModelConfig
from ingot.network.decoder import attention_block
from ingot.network.ops import Batch
from ingot.network.rope import inverse_frequencies

F32, I32 = ir.DataType.FLOAT, ir.DataType.INT32
PLUGIN_VERSION = "1"


class OnnxOps:
    """Ops[ir.Value]. One pass of network.decoder through it writes one graph; weights stay on disk.

    `max_positions` bounds the rope tables; `kv_dtype` is the cache's; `fp4_inputs` see linear().
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: EngineWeights,
        dtype: ir.DataType,
        *,
        kv_dtype: ir.DataType,
        page_size: int,
        max_positions: int,
        fp4_inputs: bool,
    ) -> None:
        self.config = config
        self.weights = weights
        self.graph = GraphWriter(dtype)
        self.kv_dtype = kv_dtype
        self.page_size = page_size
        self.max_positions = max_positions
        self.fp4_inputs = fp4_inputs
        self._rope: tuple[ir.Value, ir.Value] | None = None
        self._residuals, self._rows = 0, "tokens"

    def batch(self) -> Batch[ir.Value]:
        """The graph's inputs, all int32; tokens, sequences, pages and rows are dynamic."""
        shapes: dict[str, list[int | str]] = {
            "token_ids": ["tokens"],
            "positions": ["tokens"],
            "slots": ["tokens"],
            "page_table": ["sequences", "pages_per_sequence"],
            "query_starts": ["sequences_plus_1"],
            "kv_lengths": ["sequences"],
            "logit_rows": ["rows"],
        }
        return Batch(**{name: self.graph.input(name, I32, shape) for name, shape in shapes.items()})

    def embedding(self, name: str, token_ids: ir.Value) -> ir.Value:
        with self.graph.scope(name):
            return self._residual(self.graph.op("Gather", self._float(name), token_ids))

    def rms_norm(self, name: str, x: ir.Value) -> ir.Value:
        with self.graph.scope(name):
            return self._norm(name, x)

    def add_rms_norm(self, name: str, x: ir.Value, residual: ir.Value) -> tuple[ir.Value, ir.Value]:
        with self.graph.scope(name):
            total = self._residual(self.graph.op("Add", x, residual))
            return self._norm(name, total), total

    def linear(self, name: str, x: ir.Value) -> ir.Value:
        with self.graph.scope(name):
            return linear(self.graph, self.weights, name, x, fp4_inputs=self.fp4_inputs)

    def rope(self, layer: int, qkv: ir.Value, batch: Batch[ir.Value]) -> tuple[ir.Value, ir.Value, ir.Value]:
        config, graph = self.config, self.graph
        heads, kv_heads = config.num_heads, config.num_kv_heads
        tables = self._rope_rows(batch.positions)
        with graph.scope(f"layers.{layer}.rope"):
            split = graph.op("Reshape", qkv, graph.integers(-1, heads + 2 * kv_heads, config.head_dim))
            q, k, v = graph.ops("Split", split, graph.integers(heads, kv_heads, kv_heads), outputs=3, axis=1)
            if config.qk_norm:
                q, k = self._norm(f"layers.{layer}.q_norm", q), self._norm(f"layers.{layer}.k_norm", k)
            q, k = self._rotate(q, *tables), self._rotate(k, *tables)
        named = ((q, "q", heads), (k, "k", kv_heads), (v, "v", kv_heads))
        q, k, v = (graph.typed(value, f"{name}.{layer}", ["tokens", n, config.head_dim]) for value, name, n in named)
        return q, k, v

    def attention(self, layer: int, q: ir.Value, k: ir.Value, v: ir.Value, batch: Batch[ir.Value]) -> ir.Value:
        config, graph = self.config, self.graph
        shape: list[int | str] = [2, "pages", config.num_kv_heads, self.page_size, config.head_dim]
        cache = graph.input(f"kv_cache.{layer}", self.kv_dtype, shape)
        k_scale, v_scale = self._kv_scales(layer)
        with graph.scope(f"layers.{layer}.attention"):
            out, extended = graph.ops(
                "PagedAttention",
                *(q, k, v, cache),
                *(batch.slots, batch.page_table, batch.query_starts, batch.kv_lengths),
                outputs=2,
                domain=INGOT_DOMAIN,
                plugin_version=PLUGIN_VERSION,
                plugin_namespace=INGOT_DOMAIN,
                scale=config.head_dim**-0.5,
                window=config.windows[layer],
                k_scale=k_scale,
                v_scale=v_scale,
            )
        graph.outputs.append(graph.typed(extended, f"kv_cache_out.{layer}", shape, self.kv_dtype))
        return graph.typed(out, f"attention.{layer}", ["tokens", config.num_heads * config.head_dim])

    def silu_mul(self, gate_up: ir.Value) -> ir.Value:
        with self.graph.scope("silu_mul"):
            gate, up = self.graph.ops("Split", gate_up, outputs=2, axis=-1, num_outputs=2)
            return self.graph.op("Mul", self.graph.op("Mul", gate, self.graph.op("Sigmoid", gate)), up)

    def wanted_attention(self, layer: int, x: ir.Value, batch: Batch[ir.Value]) -> ir.Value:
        return self.wanted_rows(attention_block(self, layer, x, batch), batch)

    def wanted_rows(self, x: ir.Value, batch: Batch[ir.Value]) -> ir.Value:
        self._rows = "rows"
        with self.graph.scope("wanted_rows"):
            return self.graph.op("Gather", x, batch.logit_rows)

    def logits(self, name: str, x: ir.Value) -> ir.Value:
        held = name if f"{name}.weight" in self.weights else "embed"
        with self.graph.scope(name):
            y = linear(self.graph, self.weights, held, x, fp4_inputs=self.fp4_inputs)
            logits = self.graph.typed(self.graph.cast(y, F32), "logits", ["rows", self.config.vocab_size], F32)
        self.graph.outputs.append(logits)
        return logits

    def _float(self, name: str) -> ir.Value:
        return self.graph.floats(f"{name}.weight", self.weights[f"{name}.weight"])

    def _norm(self, name: str, x: ir.Value) -> ir.Value:
        return self.graph.op(
            "RMSNormalization", x, self._float(name), epsilon=self.config.rms_norm_eps, axis=-1, stash_type=1
        )

    def _residual(self, value: ir.Value) -> ir.Value:
        self._residuals += 1
        return self.graph.typed(value, f"residual.{self._residuals}", [self._rows, self.config.hidden_size])

    def _rope_rows(self, positions: ir.Value) -> tuple[ir.Value, ir.Value]:
        """cos and sin (T, 1, D / 2) in float32, from tables: a GPU's fast sine is wrong at a hundred thousand radians."""
        if self._rope is None:
            angles = np.outer(np.arange(self.max_positions), np.array(inverse_frequencies(self.config), np.float32))
            shape: list[int | str] = ["tokens", 1, self.config.head_dim // 2]
            with self.graph.scope("rope"):
                tables = (
                    self.graph.array("rope.cos", np.cos(angles), F32),
                    self.graph.array("rope.sin", np.sin(angles), F32),
                )
                rows = [self.graph.op("Gather", table, positions) for table in tables]
                cos, sin = (self.graph.op("Unsqueeze", row, self.graph.integers(1)) for row in rows)
            self._rope = (self.graph.typed(cos, "cos", shape, F32), self.graph.typed(sin, "sin", shape, F32))
        return self._rope

    def _rotate(self, x: ir.Value, cos: ir.Value, sin: ir.Value) -> ir.Value:
        """Pairs (i, i + D / 2), in float32 (transformers' rotate_half)."""
        graph = self.graph
        a, b = graph.ops("Split", graph.cast(x, F32), outputs=2, axis=-1, num_outputs=2)
        first = graph.op("Sub", graph.op("Mul", a, cos), graph.op("Mul", b, sin))
        second = graph.op("Add", graph.op("Mul", b, cos), graph.op("Mul", a, sin))
        return graph.cast(graph.op("Concat", first, second, axis=-1), graph.dtype)

    def _kv_scales(self, layer: int) -> tuple[float, float]:
        """Of k and v in an FP8 cache: what is stored is value / scale."""
        name = f"layers.{layer}.kv_scale"
        if name not in self.weights:
            return 1.0, 1.0
        k_scale, v_scale = self.weights.floats(name).reshape(-1).tolist()
        return k_scale, v_scale
