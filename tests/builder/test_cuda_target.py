"""What the cuda target hands to the process that compiles an engine's kernels, and what becomes of it when that fails."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingot.builder.targets import CompileJob, cuda
from ingot.errors import EngineError
from ingot.manifest import Limits
from ingot.network.config import Llama3Rope, ModelConfig
from ingot.runtime.programs.cuda_pack import PackJob

CONFIG = ModelConfig(
    family="llama", vocab_size=64, hidden_size=64, intermediate_size=96, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16,
    max_position=128, rms_norm_eps=1e-5, rope_theta=10_000.0, windows=(0, 32), eos_token_ids=(1, 2),
    rope_scaling=Llama3Rope(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=64),
)  # fmt: skip
LIMITS = Limits(max_model_len=100, max_num_seqs=8, max_num_batched_tokens=64, page_size=16)


def job(tmp_path: Path) -> CompileJob:
    return CompileJob(
        config=CONFIG, weights=[tmp_path], limits=LIMITS, dtype="bfloat16", kv_dtype="float8_e4m3fn", quant="fp8"
    )


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outcome: Any) -> list[PackJob]:
    seen: list[PackJob] = []

    def fake(command: list[str], **options: Any) -> Any:
        assert command[1:3] == ["-m", "ingot.runtime.programs.cuda_pack"]
        seen.append(msgspec.json.decode(Path(command[3]).read_bytes(), type=PackJob))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr("subprocess.run", fake)
    cuda.pack_kernels(job(tmp_path), tmp_path / "kernels")
    return seen


def test_the_job_arrives_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (seen,) = run(monkeypatch, tmp_path, subprocess.CompletedProcess([], 0))
    assert seen == PackJob(
        config=CONFIG, weights=[str(tmp_path)], kernels=str(tmp_path / "kernels"), limits=LIMITS, dtype="bfloat16",
        kv_dtype="float8_e4m3fn",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (subprocess.CompletedProcess([], 1, stderr="no kernel image"), "no kernel image"),
        (subprocess.TimeoutExpired([], 5), "took more than"),
    ],
)
def test_a_failure_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outcome: Any, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        run(monkeypatch, tmp_path, outcome)
