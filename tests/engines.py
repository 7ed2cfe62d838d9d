"""An engine folder without weights, and a loader that runs the fake program on it: everything of a server but the model.

Its tokens are the printable ASCII characters, newline and an end-of-text token, so that any text has known ids.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from tests.fakes import FakeProgram, FakeTicket
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from ingot.manifest import FORMAT_VERSION, Embedding, Limits, Manifest, read_manifest, record_files
from ingot.runtime.executor import Executor
from ingot.runtime.plan import StepPlan
from ingot.runtime.text import Tokenizer as EngineTokenizer

ROOT = Path(__file__).resolve().parents[1]
LOADER = "tests.engines:load"
NAME = "fake"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
PAGES = 256


class SlowProgram(FakeProgram):
    """Takes a while for every step, as real ones do."""

    step_seconds = 0.0

    def launch(self, plan: StepPlan) -> FakeTicket:
        time.sleep(self.step_seconds)
        return super().launch(plan)


def write_engine(
    folder: Path,
    *,
    step_seconds: float = 0.0,
    max_num_seqs: int = 32,
    name: str = NAME,
    num_pages: int = PAGES,
    generation_config: dict[str, float] | None = None,
    endless: bool = False,
) -> Path:
    """`endless`: the model never says end-of-text, so that a stream runs until its limit in every dialect."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [*(chr(code) for code in range(32, 127)), "\n"]
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocab = {spelled.pre_tokenize_str(letter)[0][0]: i for i, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = spelled
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    size = len(letters) + 1
    config = {"vocab_size": size, "eos_token_id": size - 1, "step_seconds": step_seconds, "endless": endless}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    (folder / "generation_config.json").write_text(json.dumps(generation_config or {}))
    limits = Limits(
        max_model_len=512, max_num_seqs=max_num_seqs, max_num_batched_tokens=256, page_size=8, num_pages=num_pages
    )
    Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        target="cpu",
        sm=[],
        source={},
        recipe={},
        dtype="float32",
        kv_dtype="float32",
        limits=limits,
        memory={},
        quality=None,
        versions={},
        files=record_files(folder),
        rebuild="ingot build MODEL -o DIR",
        built_at="2026-01-02T03:04:05Z",
        tasks=("generate", "embed"),
        embedding=Embedding(size=3, pooling="last", normalize=True),
    ).write(folder)
    return folder


def load(engine: Path) -> Executor:
    """The worker's `--loader`."""
    limits = read_manifest(engine).limits
    config = json.loads((engine / "config.json").read_text())
    program = SlowProgram(
        num_pages=limits.num_pages or PAGES,
        page_size=limits.page_size,
        max_num_seqs=limits.max_num_seqs,
        vocab_size=config["vocab_size"] - config["endless"],
    )
    program.step_seconds = config["step_seconds"]
    return Executor(program, limits, EngineTokenizer.from_engine(engine).eos_token_ids)


def worker_path() -> str:
    """PYTHONPATH under which a worker process finds this module."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
