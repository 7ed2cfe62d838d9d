"""The flags of `text-generation-launcher`."""

from __future__ import annotations

from ingot.client.migrate import rules
from ingot.client.migrate.rules import Dialect, build, lost, model, same, serve

QUANTIZATIONS = {"fp8": "fp8-dynamic", "compressed-tensors": rules.DECLARED}

TGI = Dialect(
    name="text-generation-launcher",
    programs=(("text-generation-launcher",), ("ghcr.io/huggingface/text-generation-inference",)),
    default_host="0.0.0.0",
    default_port="3000",
    names_whole_model=True,
    aliases={"-p": "--port"},
    flags={
        "--model-id": model(),
        "--hostname": serve("--host"),
        "--port": serve("--port"),
        "--served-model-name": serve("--served-model-name"),
        "--api-key": serve("--api-key"),
        "--revision": build("--revision"),
        "--quantize": build("--quant", QUANTIZATIONS, reason=rules.OTHER_QUANT),
        "--kv-cache-dtype": build("--kv", rules.KV_DTYPES),
        "--dtype": build("--dtype", rules.DTYPES),
        "--max-total-tokens": build("--max-model-len"),
        "--max-batch-size": build("--max-num-seqs"),
        "--max-batch-prefill-tokens": build("--max-num-batched-tokens"),
        "--json-output": lost("ingot serve --log-format json", words="none"),
        "--max-concurrent-requests": lost(
            "ingot serve --max-queue bounds those that wait, build --max-num-seqs those that run"
        ),
        "--max-input-tokens": same("a prompt may fill the engine's length less one token", words="one"),
        "--max-input-length": same("a prompt may fill the engine's length less one token", words="one"),
        "--max-waiting-tokens": same("waiting prompts join at the next step", words="one"),
        "--waiting-served-ratio": same("waiting prompts join at the next step", words="one"),
        "--max-best-of": lost("requests may ask for 128"),
        "--max-stop-sequences": lost("requests may have 16"),
        "--max-top-n-tokens": lost("requests may ask for 20"),
        "--max-batch-total-tokens": lost(rules.SIZED),
        "--cuda-memory-fraction": lost(rules.SIZED),
        "--num-shard": lost(rules.ONE_DEVICE),
        "--sharded": lost(rules.ONE_DEVICE),
        "--shard-uds-path": lost(rules.ONE_DEVICE),
        "--master-addr": lost(rules.ONE_DEVICE),
        "--master-port": lost(rules.ONE_DEVICE),
        "--validation-workers": same("prompts are checked in the server's process", words="one"),
        "--max-client-batch-size": lost("a request is as large as --max-body-mib"),
        "--payload-limit": lost("give ingot serve --max-body-mib, in MiB"),
        "--speculate": lost(rules.NO_DRAFT),
        "--cuda-graphs": lost(rules.CAPTURED),
        "--disable-custom-kernels": lost(rules.ONE_BACKEND, words="none"),
        "--trust-remote-code": lost(rules.NO_CODE, words="none"),
        "--lora-adapters": lost(rules.NO_LORA),
        "--rope-scaling": lost("change the checkpoint's config.json and build again"),
        "--rope-factor": lost("change the checkpoint's config.json and build again"),
        "--tokenizer-config-path": lost("the tokenizer comes from the checkpoint"),
        "--disable-grammar-support": lost("grammars are a request's choice", words="none"),
        "--enable-prefill-logprobs": same("decoder_input_details is always honoured"),
        "--huggingface-hub-cache": lost("ingot build --cache says where downloads go"),
        "--weights-cache-override": lost("ingot build --cache says where downloads go"),
        "--otlp-endpoint": lost(rules.LOGGED),
        "--otlp-service-name": lost(rules.LOGGED),
        "--usage-stats": same("ingot tells nobody that it runs", words="one"),
        "--prometheus-port": same("/metrics is at the server's own port", words="one"),
        "--kv-cache-size": lost(rules.SIZED),
        "--env": lost("ingot doctor says what this machine has", words="none"),
        "--cors-allow-origin": lost(rules.NO_PAGES),
        "--watermark-gamma": lost("watermarks are not supported"),
        "--watermark-delta": lost("watermarks are not supported"),
        "--ngrok": lost("ingot opens no tunnel", words="none"),
    },
)
