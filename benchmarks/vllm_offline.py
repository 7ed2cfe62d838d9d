"""vLLM's side of a comparison, in vLLM's own process: one JSON line per workload, the first after its start.

    PYTHONPATH=VLLM_SITE python benchmarks/vllm_offline.py MODE --model DIR --workloads ISL/OSLxN,...

Imports vLLM, numpy and the standard library alone. DIR's weights, vLLM's own dummies where it has none; token ids in and
out, greedy, EOS ignored, prefix cache off; everything else is vLLM's own default. fp8 and fp8kv round plain weights when
vLLM loads them, fp8kv-checkpoint has those of a checkpoint with static scales, in FP8. benchmarks/versus_vllm.py runs it.
"""

from __future__ import annotations

import argparse
import json
import os
import time

CHECKPOINT = "fp8 checkpoint"
WAYS = {  # MODE -> the lines' mode and quant, vLLM's arguments
    "bf16": ("bf16", "none", {}),
    "fp8": ("fp8", "fp8 online", {"quantization": "fp8"}),
    "fp8kv": ("fp8kv", "fp8 online", {"quantization": "fp8", "kv_cache_dtype": "fp8"}),
    "fp8kv-checkpoint": ("fp8kv", CHECKPOINT, {"kv_cache_dtype": "fp8"}),
}
WARM_OSL, WARM_REQUESTS = 8, 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=sorted(WAYS))
    parser.add_argument("--model", required=True, help="a folder with a config.json, and weights or not")
    parser.add_argument("--workloads", required=True)
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--memory-share", type=float, default=0.9)
    args = parser.parse_args()
    mode, quant, words = WAYS[args.mode]
    with open(os.path.join(args.model, "config.json")) as file:
        config = json.load(file)
    if ("quantization_config" in config) != (quant == CHECKPOINT):
        parser.error(f"{args.mode} is for a checkpoint {'in FP8' if quant == CHECKPOINT else 'in bf16'}: {args.model}")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.update(VLLM_NO_USAGE_STATS="1", HF_HUB_OFFLINE="1")

    import numpy as np
    import vllm  # type: ignore[import-not-found]

    weights = "checkpoint" if any(name.endswith(".safetensors") for name in os.listdir(args.model)) else "dummy"
    begin = time.perf_counter()
    llm = vllm.LLM(
        model=args.model,
        skip_tokenizer_init=True,
        load_format="dummy" if weights == "dummy" else "safetensors",
        dtype="bfloat16",
        max_model_len=args.max_model_len,
        gpu_memory_utilization=args.memory_share,
        enable_prefix_caching=False,
        disable_log_stats=True,
        **words,
    )
    startup = time.perf_counter() - begin
    engine = f"vllm-{vllm.__version__}"
    head = {"engine": engine, "mode": mode, "quant": quant}
    print(json.dumps({**head, "startup_s": round(startup, 1)}), flush=True)
    rng = np.random.default_rng(0)

    def generate(isl: int, osl: int, count: int) -> tuple[float, int]:
        prompts = [{"prompt_token_ids": rng.integers(10, config["vocab_size"], isl).tolist()} for _ in range(count)]
        params = vllm.SamplingParams(temperature=0.0, max_tokens=osl, ignore_eos=True, detokenize=False)
        begin = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return time.perf_counter() - begin, sum(len(one.outputs[0].token_ids) for one in outputs)

    workloads = []
    for workload in args.workloads.split(","):
        lengths, count = workload.split("x")
        isl, osl = map(int, lengths.split("/"))
        workloads.append((isl, osl, int(count)))
    for isl, osl, count in workloads:  # the warm-up that `ingot bench offline` makes
        generate(isl, min(osl, WARM_OSL), min(count, WARM_REQUESTS))
    for isl, osl, count in workloads:
        seconds, produced = generate(isl, osl, count)
        line = {**head, "isl": isl, "osl": osl, "requests": count, "seconds": round(seconds, 3),
                "output_tok_s": round(produced / seconds, 1), "startup_s": round(startup, 1), "weights": weights}  # fmt: skip
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
