"""The flags of `trtllm-serve`."""

from __future__ import annotations

from ingot.client.migrate import rules
from ingot.client.migrate.rules import Dialect, build, lost, same, serve
from ingot.client.migrate.vllm import LEVELS

TRTLLM = Dialect(
    name="trtllm-serve",
    programs=(("trtllm-serve", "serve"), ("trtllm-serve",)),
    default_host="localhost",
    default_port="8000",
    names_whole_model=False,
    aliases={"--tensor-parallel-size": "--tp-size", "--extra-llm-api-options": "--config"},
    flags={
        "--host": serve("--host"),
        "--port": serve("--port"),
        "--served-model-name": serve("--served-model-name"),
        "--log-level": serve("--log-level", LEVELS | {"verbose": "debug", "internal-error": "error"}),
        "--revision": build("--revision"),
        "--kv-cache-dtype": build("--kv", rules.KV_DTYPES),
        "--max-seq-len": build("--max-model-len"),
        "--max-batch-size": build("--max-num-seqs"),
        "--max-num-tokens": build("--max-num-batched-tokens"),
        "--enable-chunked-prefill": same(rules.CHUNKED),
        "--backend": lost("ingot build --target chooses what runs"),
        "--tokenizer": lost("the tokenizer comes from the checkpoint"),
        "--custom-tokenizer": lost(rules.NO_CODE),
        "--tp-size": lost(rules.ONE_DEVICE),
        "--pp-size": lost(rules.ONE_DEVICE),
        "--ep-size": lost(rules.ONE_DEVICE),
        "--cluster-size": lost(rules.ONE_DEVICE),
        "--gpus-per-node": lost(rules.ONE_DEVICE),
        "--max-beam-width": lost("there is no beam search; ask for n samples"),
        "--free-gpu-memory-fraction": lost(rules.SIZED),
        "--kv-cache-free-gpu-memory-fraction": lost(rules.SIZED),
        "--num-postprocess-workers": lost("text is made in the server's process"),
        "--trust-remote-code": lost(rules.NO_CODE, words="none"),
        "--config": lost(rules.BY_HAND),
        "--reasoning-parser": serve("--reasoning-parser", {"deepseek-r1": "deepseek_r1", "qwen3": "qwen3"}),
        "--tool-parser": serve("--tool-call-parser", {"qwen3": "hermes"}),
        "--grpc": lost("ingot triton serves gRPC", words="none"),
        "--enable-attention-dp": lost(rules.ONE_DEVICE, words="none"),
        "--moe-tensor-parallel-size": lost(rules.ONE_DEVICE),
        "--moe-expert-parallel-size": lost(rules.ONE_DEVICE),
        "--disagg-cluster-uri": lost(rules.ONE_DEVICE),
        "--media-io-kwargs": lost(rules.NO_MEDIA),
        "--custom-module-dirs": lost(rules.NO_CODE),
        "--otlp-traces-endpoint": lost(rules.LOGGED),
        "--return-perf-metrics": same(rules.METERED),
        "--chat-template": lost(rules.TEMPLATE),
        "--metadata-server-config-file": lost(rules.ONE_DEVICE),
        "--server-role": lost(rules.ONE_DEVICE),
        "--fail-fast-on-attention-window-too-large": lost(rules.CAPTURED, words="none"),
    },
)
