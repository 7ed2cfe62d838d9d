"""The bundled model built for a GPU answers as it does on a CPU, for every scheme, cold and from the prefix cache.

ModelOpt's schemes are quantized here where it is installed; where it is not, INGOT_EXPORTS names a folder with one
exported checkpoint per scheme (`ingot build examples/tiny -o ENGINE --quant fp8 --export EXPORTS/fp8`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ingot.builder import Recipe, build_engine
from ingot.manifest import read_manifest
from ingot.runtime import LLM, SamplingParams
from ingot.runtime.request import Prompt

pytestmark = pytest.mark.gpu

TINY = Path(__file__).resolve().parents[2] / "examples" / "tiny"
GREEDY = SamplingParams(temperature=0.0, max_tokens=160)
CASES = [
    ("none", "auto"),
    ("none", "fp8"),
    ("fp8", "fp8"),
    ("fp8-dynamic", "auto"),
    ("int8", "auto"),
    ("int4", "auto"),
    ("nvfp4", "auto"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def questions(count: int) -> list[tuple[Prompt, str]]:
    """Held-out questions of every category, evenly picked, with their right answers."""
    lines = [json.loads(line) for line in (TINY / "questions.jsonl").read_text().splitlines()]
    return [(Prompt(messages=line["messages"]), line["answer"]) for line in lines[:: len(lines) // count]]


def build(quant: str, kv: str, target: str, out: Path, cache: Path) -> Path:
    exported = Path(os.environ.get("INGOT_EXPORTS", "")) / quant
    model, scheme = (exported, "none") if (exported / "config.json").is_file() else (TINY, quant)
    return build_engine(Recipe(model=str(model), out=str(out), quant=scheme, kv=kv, target=target), cache=cache)


@pytest.mark.parametrize(("quant", "kv"), CASES)
def test_the_gpu_answers_as_the_cpu_does(quant: str, kv: str, tmp_path: Path, cache: Path) -> None:
    asked = questions(90)
    prompts, right = [prompt for prompt, _ in asked], [answer for _, answer in asked]
    with LLM(build(quant, kv, "cpu", tmp_path / "cpu", cache)) as llm:
        on_cpu = [one.text for one in llm.generate(prompts, GREEDY)]
    engine = build(quant, kv, "cuda", tmp_path / "cuda", cache)
    assert read_manifest(engine).sm
    with LLM(engine) as llm:
        cold = [one.text for one in llm.generate(prompts, GREEDY)]
        warm = [one.text for one in llm.generate(prompts, GREEDY)]
        assert llm.stats().prefix_hits
    print(f"{quant}, KV {kv}: {sum(map(str.__eq__, cold, right))} of {len(right)} right")
    assert cold == on_cpu
    assert warm == cold
    assert cold == right


ANSWER = """
import sys
from ingot.runtime import LLM, SamplingParams
from ingot.runtime.request import Prompt
with LLM(sys.argv[1]) as llm:
    print(llm.generate([Prompt(messages=[{"role": "user", "content": "What is 17 + 25?"}])], SamplingParams(max_tokens=20))[0].text)
    print(llm.generate([Prompt(messages=[{"role": "user", "content": "What is 17 + 25?"}])] * 7, SamplingParams(max_tokens=20, temperature=0.0))[0].text)
"""


@pytest.mark.parametrize(("quant", "kv"), [("none", "auto"), ("fp8-dynamic", "fp8")])
def test_a_loaded_engine_compiles_nothing(quant: str, kv: str, tmp_path: Path, cache: Path) -> None:
    """In a process without any cache or compiler."""
    engine = build(quant, kv, "cuda", tmp_path / "engine", cache)
    bare = {"TRITON_CACHE_DIR": str(tmp_path / "triton"), "INGOT_KERNELS": str(tmp_path / "cubins"), "CC": "/bin/false"}
    env = os.environ | bare | {"PATH": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, str(engine)], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    assert "42" in done.stdout.splitlines()[-1]
    assert "compiling" not in done.stderr
    assert not [path for folder in ("triton", "cubins") for path in (tmp_path / folder).rglob("*") if path.is_file()]
