"""`ingot migrate`: what the tables say is what ingot has, and nothing that was given is left unsaid."""

from __future__ import annotations

import shlex

import click
import pytest
from click.testing import CliRunner

from ingot.builder.commands import build
from ingot.client.commands import serve
from ingot.client.migrate.command import migrate as command
from ingot.client.migrate.rules import Dialect
from ingot.client.migrate.translate import DIALECTS, SERVE_DEFAULTS, engine_folder, migrate
from ingot.errors import RequestError

NAMES = [dialect.name for dialect in DIALECTS]
OPTIONS = {
    place: {name: option for option in found.params for name in option.opts}
    for place, found in (("build", build), ("serve", serve))
}


@pytest.mark.parametrize("dialect", DIALECTS, ids=NAMES)
def test_every_target_is_an_option_of_ours(dialect: Dialect) -> None:
    assert len(dialect.flags) > 25
    for flag, rule in dialect.flags.items():
        if rule.place not in OPTIONS:
            assert rule.reason or rule.place == "model", flag
            continue
        option = OPTIONS[rule.place][rule.option]
        for value in filter(None, (rule.values or {}).values()):
            assert isinstance(option.type, click.Choice), flag
            assert value in option.type.choices, (flag, value)
    assert set(dialect.aliases.values()) <= dialect.flags.keys()
    assert not dialect.aliases.keys() & dialect.flags.keys()


def test_our_defaults_are_those_of_serve() -> None:
    for option, value in SERVE_DEFAULTS.items():
        assert str(OPTIONS["serve"][option].default) == value


def test_vllm() -> None:
    found = migrate(
        "CUDA_VISIBLE_DEVICES=0 vllm serve meta-llama/Llama-3.1-8B-Instruct --quantization fp8 --kv_cache_dtype=fp8 "
        "--max-model-len 8192 -tp 2 --api-key one two --enable-prefix-caching --gpu-memory-utilization 0.9 --new-flag 7"
    )
    assert found.model == "meta-llama/Llama-3.1-8B-Instruct"
    assert found.build == ["--quant", "fp8-dynamic", "--kv", "fp8", "--max-model-len", "8192"]
    assert found.serve == [
        *("--api-key", "one", "--api-key", "two", "--host", "0.0.0.0"),
        *("--served-model-name", "meta-llama/Llama-3.1-8B-Instruct"),
    ]
    assert engine_folder(found) == "engines/Llama-3.1-8B-Instruct-fp8-dynamic-kvfp8"
    assert [given for given, _ in found.same] == ["--enable-prefix-caching"]
    assert [given for given, _ in found.lost] == [
        *("CUDA_VISIBLE_DEVICES=0", "-tp 2", "--gpu-memory-utilization 0.9", "--new-flag 7")
    ]


def test_sglang() -> None:
    found = migrate(
        "python3 -m sglang.launch_server --model-path Qwen/Qwen3-8B --port 8000 --context-length 4096 --tp 1 "
        "--disable-radix-cache --kv-cache-dtype fp8_e5m2 --host 0.0.0.0"
    )
    assert (found.model, found.build) == ("Qwen/Qwen3-8B", ["--max-model-len", "4096"])
    assert found.serve[:4] == ["--port", "8000", "--host", "0.0.0.0"]
    lost = [given for given, _ in found.lost]
    assert lost == ["--tp 1", "--disable-radix-cache", "--kv-cache-dtype fp8_e5m2"]
    assert migrate("sglang serve --model Qwen/Qwen3-8B").serve[:2] == ["--port", "30000"]


def test_tgi_in_docker() -> None:
    found = migrate(
        "docker run --gpus all -p 8080:80 ghcr.io/huggingface/text-generation-inference:3.3 --model-id gpt "
        "--max-total-tokens 2048 --num-shard 2 --quantize awq"
    )
    assert (found.dialect.name, found.model) == ("text-generation-launcher", "gpt")
    assert found.build == ["--max-model-len", "2048"]
    assert ("docker run --gpus all -p 8080:80", "it stands before the server's command") in found.lost
    assert [given for given, _ in found.lost][-2:] == ["--num-shard 2", "--quantize awq"]
    assert "modelopt" in found.lost[-1][1]


def test_trtllm() -> None:
    found = migrate("trtllm-serve serve /models/llama --max_batch_size 64 --max_seq_len 4096 --backend pytorch")
    assert (found.model, engine_folder(found)) == ("/models/llama", "engines/llama")
    assert found.build == ["--max-num-seqs", "64", "--max-model-len", "4096"]
    assert found.serve == []
    assert migrate("trtllm-serve /models/llama").model == "/models/llama"


# As people paste them: from model cards, compose files and recipes. What each must become, and what it loses.
REAL = [
    (
        """vllm serve Qwen/Qwen3-8B \\
    --tensor-parallel-size 1 --max-model-len 32768 --gpu-memory-utilization 0.92 \\
    --enable-auto-tool-choice --tool-call-parser hermes \\
    --enable-reasoning --reasoning-parser qwen3 \\
    --generation-config vllm --async-scheduling --no-trust-remote-code""",
        ["--max-model-len", "32768"],
        ["--tool-call-parser", "hermes", "--reasoning-parser", "qwen3", "--generation-config", "none"],
        ["--tensor-parallel-size 1", "--gpu-memory-utilization 0.92"],
    ),
    (
        (
            "docker run --runtime nvidia --gpus all -v ~/.cache/huggingface:/root/.cache/huggingface --env HF_TOKEN=x "
            "-p 8000:8000 --ipc=host vllm/vllm-openai:v0.11.0 --model mistralai/Mistral-7B-Instruct-v0.3 "
            "--tool-call-parser mistral --chat-template examples/tool_chat_template_mistral.jinja "
            "--limit-mm-per-prompt '{\"image\": 2}' --quantization awq_marlin"
        ),
        [],
        ["--tool-call-parser", "mistral"],
        [
            "--chat-template examples/tool_chat_template_mistral.jinja",
            '--limit-mm-per-prompt {"image": 2}',
            "--quantization awq_marlin",
        ],
    ),
    (
        (
            "python -m vllm.entrypoints.openai.api_server --model deepseek-ai/DeepSeek-R1-Distill-Qwen-7B --dtype bfloat16 "
            "--reasoning-parser deepseek_r1 --tool-call-parser deepseek_v3 --max-num-seqs 256 --enforce-eager"
        ),
        ["--dtype", "bfloat16", "--max-num-seqs", "256"],
        ["--reasoning-parser", "deepseek_r1"],
        ["--tool-call-parser deepseek_v3", "--enforce-eager"],
    ),
    (
        (
            "docker run --gpus all --shm-size 32g -p 30000:30000 --ipc=host lmsysorg/sglang:latest python3 -m "
            "sglang.launch_server --model-path meta-llama/Llama-3.1-8B-Instruct --host 0.0.0.0 --port 30000 "
            "--tool-call-parser llama3 --mem-fraction-static 0.85 --sampling-defaults openai --enable-metrics"
        ),
        [],
        [
            *("--host", "0.0.0.0", "--port", "30000", "--tool-call-parser", "llama3_json"),
            *("--generation-config", "none"),
        ],
        ["--mem-fraction-static 0.85"],
    ),
    (
        (
            "python3 -m sglang.launch_server --model Qwen/Qwen3-30B-A3B-Thinking-2507 --reasoning-parser qwen3-thinking "
            "--attention-backend fa3 --speculative-algorithm EAGLE3 --chunked-prefill-size 4096"
        ),
        ["--max-num-batched-tokens", "4096"],
        ["--reasoning-parser", "deepseek_r1"],
        ["--attention-backend fa3", "--speculative-algorithm EAGLE3"],
    ),
    (
        (
            "text-generation-launcher --model-id teknium/OpenHermes-2.5-Mistral-7B --port 8080 --max-input-tokens 3072 "
            "--max-total-tokens 4096 --max-batch-prefill-tokens 4096 --usage-stats off --cuda-graphs 0"
        ),
        ["--max-model-len", "4096", "--max-num-batched-tokens", "4096"],
        ["--port", "8080"],
        ["--cuda-graphs 0"],
    ),
    (
        (
            "trtllm-serve deepseek-ai/DeepSeek-R1 --host localhost --port 8000 --backend pytorch --max_batch_size 161 "
            "--max_num_tokens 1160 --tp_size 8 --ep_size 8 --pp_size 1 --kv_cache_free_gpu_memory_fraction 0.95 "
            "--extra_llm_api_options ./extra-llm-api-config.yml --reasoning_parser deepseek-r1"
        ),
        ["--max-num-seqs", "161", "--max-num-batched-tokens", "1160"],
        ["--host", "localhost", "--port", "8000", "--reasoning-parser", "deepseek_r1"],
        [
            *("--backend pytorch", "--tp_size 8", "--ep_size 8", "--pp_size 1"),
            *("--kv_cache_free_gpu_memory_fraction 0.95", "--extra_llm_api_options ./extra-llm-api-config.yml"),
        ],
    ),
]


@pytest.mark.parametrize(("line", "built", "served", "lost"), REAL, ids=range(len(REAL)))
def test_lines_as_people_paste_them(line: str, built: list[str], served: list[str], lost: list[str]) -> None:
    found = migrate(line)
    assert found.build == built
    assert found.serve[: len(served)] == served
    assert [given for given, reason in found.lost if not given.startswith("docker run")] == lost
    assert "tables do not know" not in str(found.lost)


def test_switching_off_what_cannot_be_is_said() -> None:
    found = migrate("vllm serve m --no-enable-prefix-caching")
    assert found.lost == [("--no-enable-prefix-caching", "it cannot be switched off: the prefix cache is always on")]
    found = migrate("vllm serve m --no-trust-remote-code")
    assert (found.lost, [given for given, _ in found.same]) == ([], ["--no-trust-remote-code"])


@pytest.mark.parametrize("dialect", DIALECTS, ids=NAMES)
def test_nothing_given_is_left_unsaid(dialect: Dialect) -> None:
    """Each flag of the tables alone: its value turns up in a command or in a list."""
    start = " ".join(dialect.programs[0])
    for flag, rule in dialect.flags.items():
        value = {"none": "", "one": "marked", "many": "marked and more"}[rule.words]
        model = "" if rule.place == "model" else "--model-id m" if dialect.name.startswith("text") else "--model m"
        found = migrate(
            f"{start} {model} {flag} {value}" if dialect.name != "trtllm-serve" else f"{start} m {flag} {value}"
        )
        said = shlex.join([found.model, *found.build, *found.serve, *(given for given, _ in found.same + found.lost)])
        for word in value.split() or [flag]:
            assert word in said, flag


@pytest.mark.parametrize(
    ("given", "said"),
    [("llama-server -m x", "no command line"), ("vllm serve --port 1", "names no model"), ("vllm serve 'm", "parse")],
)
def test_what_cannot_be_read_is_said(given: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        migrate(given)


@pytest.mark.parametrize("quoted", [True, False])
def test_the_command_prints_shell_lines(quoted: bool) -> None:
    line = "vllm serve 'my models/m' --dtype half --trust-remote-code"
    said = CliRunner().invoke(command, [line] if quoted else shlex.split(line))
    assert said.exit_code == 0, said.output
    lines = said.output.splitlines()
    assert shlex.split(lines[0]) == ["ingot", "build", "my models/m", "-o", "engines/m", "--dtype", "float16"]
    assert shlex.split(lines[1])[:3] == ["ingot", "serve", "engines/m"]
    assert "#   --trust-remote-code: ingot never runs code from a checkpoint" in lines
