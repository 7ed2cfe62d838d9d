"""What arithmetic allows a workload: its bytes and FLOPs at the machine's measured ceilings. Knows shapes, runs nothing."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.network.config import ModelConfig
from ingot.network.weights import INT4_GROUP, LINEARS, NVFP4_GROUP, Scheme, linear_shape
from ingot.runtime.bench.ceilings import Ceilings
from ingot.runtime.bench.workload import Workload

EIGHT_BIT = (Scheme.FP8, Scheme.INT8)
WEIGHT_BYTES = {
    Scheme.FP8: 1.0,
    Scheme.INT8: 1.0,
    Scheme.INT4: 0.5 + 4 / INT4_GROUP,
    Scheme.NVFP4: 0.5 + 1 / NVFP4_GROUP,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a model costs to run, and how much of it runs at once."""

    linear: int  # parameters of all layers' linears
    head: int  # parameters of the LM head
    weight_bytes: float  # read once a step
    kv_bytes: float  # of one token of context, over all layers
    linear_rate: str  # whose GEMM ceiling the linears run at
    head_rate: str
    max_num_seqs: int
    pool_tokens: int  # KV slots


def model_costs(
    config: ModelConfig, scheme: Scheme, *, itemsize: int, rate: str, kv_itemsize: int, max_num_seqs: int, pool_tokens: int, widened: bool
) -> Costs:  # fmt: skip
    """`itemsize` and `rate` are the activations'; `widened` where the program widens weights to that dtype when it loads."""
    linear = config.num_layers * sum(n * k for n, k in (linear_shape(config, kind) for kind in LINEARS))
    head = config.vocab_size * config.hidden_size
    per_weight = itemsize if widened else WEIGHT_BYTES.get(scheme, itemsize)
    return Costs(
        linear=linear, head=head, weight_bytes=linear * per_weight + head * itemsize,
        kv_bytes=config.kv_elements_per_token * kv_itemsize, linear_rate="fp8" if scheme in EIGHT_BIT and not widened else rate,
        head_rate=rate, max_num_seqs=max_num_seqs, pool_tokens=pool_tokens,
    )  # fmt: skip


def limit_seconds(workload: Workload, costs: Costs, ceilings: Ceilings) -> float:
    """Seconds below which the workload cannot be done: prefill + decode + kv, nothing overlapped.

        prefill = 2 * linear * isl * N / gemm + 2 * head * N / gemm_head
        decode  = max(weight_bytes / copy, at_once * (2 * linear / gemm + 2 * head / gemm_head)) * (osl - 1) * N / at_once
        kv      = kv_bytes * N * sum(isl + i for i in 1 .. osl - 1) / copy

    at_once is how many sequences of the full length run together: N, or what max_num_seqs and the KV pool allow. Attention's
    FLOPs are left out, as are norms, activations and sampling: no engine looks better by them. A GPU without FP8 is held to the
    activations' rate.
    """
    isl, osl, n = workload.isl, workload.osl, workload.requests
    head_rate = ceilings.gemm[costs.head_rate]
    linear_rate = ceilings.gemm.get(costs.linear_rate, head_rate)
    at_once = max(1, min(n, costs.max_num_seqs, costs.pool_tokens // (isl + osl)))
    prefill = 2 * costs.linear * isl * n / linear_rate + 2 * costs.head * n / head_rate
    compute = at_once * (2 * costs.linear / linear_rate + 2 * costs.head / head_rate)
    decode = max(costs.weight_bytes / ceilings.copy, compute) * (osl - 1) * n / at_once
    contexts = (osl - 1) * isl + osl * (osl - 1) // 2
    return prefill + decode + costs.kv_bytes * n * contexts / ceilings.copy
