"""Kernels that travel with an engine: what tells launches apart, what is kept, and that nothing is compiled where that is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ingot.errors import EngineError
from ingot.plugins import compiling, cubin, packed

ROOT = Path(__file__).resolve().parents[2]
PTX = (
    ".visible .entry fake(\n.param .u64 fake_param_0,\n.param .u32 fake_param_1,\n.param .u64 a,\n.param .u64 b\n)\n{ }"
)


class FakeKernel:
    """As Triton's JITFunction, compiling to nothing."""

    def __init__(self) -> None:
        names = [
            ("x", False, False),
            ("n", False, False),
            ("rows", False, True),
            ("BLOCK", True, False),
            ("PDL", True, False),
        ]
        self.params = [
            SimpleNamespace(
                name=name,
                is_constexpr=constant,
                do_not_specialize=plain,
                annotation_type="",
                default=0,
                has_default=True,
            )
            for name, constant, plain in names
        ]
        self.fn, self.__name__, self.compiled = FakeKernel.__init__, "fake", 0

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def compile_and_run(*args: Any, **options: Any) -> Any:
            self.compiled += 1
            metadata = SimpleNamespace(name="fake", num_warps=options["num_warps"], shared=0)
            return SimpleNamespace(asm={"ptx": PTX, "cubin": b"binary"}, metadata=metadata)

        return compile_and_run


class FakeCuda:
    def __init__(self, binary: bytes, symbol: str, *, shared: int) -> None:
        self.binary = binary


class FakeLaunch:
    launched: list[Any] = []  # noqa: RUF012

    def __init__(self, kernel: FakeCuda, threads: int, holders: list[Any], *, overlap: bool) -> None:
        self.kernel, self.threads, self.holders, self.overlap = kernel, threads, holders, overlap

    def run(self, grid: Any) -> None:
        given = [holder.value for holder in self.holders]
        self.launched.append((self.kernel.binary, grid, self.threads, given, self.overlap))


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_state", packed.State())
    monkeypatch.setattr(packed, "CudaKernel", FakeCuda)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(packed, "Launch", FakeLaunch)
    monkeypatch.setattr(FakeLaunch, "launched", [])
    monkeypatch.setattr(packed, "_parameters", {})


def test_what_a_build_launched_is_launched_from_the_engine(tmp_path: Path) -> None:
    kernel, x = FakeKernel(), torch.zeros(32)
    with packed.recording(tmp_path):
        for n in (7, 48, 7):
            packed.launch(kernel, (3,), x, n, rows=n, BLOCK=64, num_warps=2, overlap=1)
    assert kernel.compiled == 3
    assert len(json.loads((tmp_path / packed.INDEX).read_text())) == 2
    packed.use_pack(tmp_path)
    with compiling.refused():
        packed.launch(kernel, (5, 2), x, 64, rows=1, BLOCK=64, num_warps=2, overlap=1)
    assert kernel.compiled == 3
    with compiling.refused():
        packed.launch(kernel, (1,), x, 32, rows=9, BLOCK=64, num_warps=2, overlap=1)
    address = x.data_ptr()
    assert FakeLaunch.launched == [
        (b"binary", (5, 2, 1), 64, [address, 64, 1, None], True),  # one pointer of scratch
        (b"binary", (1, 1, 1), 64, [address, 32, 9, None], True),
    ]


@pytest.mark.parametrize(
    "change",
    [{"n": 7}, {"n": 1}, {"n": 1 << 40}, {"BLOCK": 32}, {"overlap": 0}, {"num_warps": 4}, {"x": torch.zeros(32)[1:]}],
)
def test_another_specialization_is_another_kernel(tmp_path: Path, change: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"x": torch.zeros(32), "n": 16, "rows": 3, "BLOCK": 64, "num_warps": 2, "overlap": 1}
    kernel = FakeKernel()
    with packed.recording(tmp_path):
        packed.launch(kernel, (1,), **usual)
    packed.use_pack(tmp_path)
    with compiling.refused(), pytest.raises(EngineError, match="does not carry the compiled kernel fake"):
        packed.launch(kernel, (1,), **(usual | change))
    packed.launch(kernel, (1,), **(usual | change))  # while serving, late is better than never
    assert kernel.compiled == 2


def test_rows_are_not_specialized_on(tmp_path: Path) -> None:
    kernel = FakeKernel()
    with packed.recording(tmp_path):
        packed.launch(kernel, (1,), torch.zeros(32), 16, rows=3, BLOCK=64)
    packed.use_pack(tmp_path)
    with compiling.refused():
        for rows in (1, 16, 17):
            packed.launch(kernel, (1,), torch.zeros(32), 32, rows=rows, BLOCK=64)


def test_a_folder_that_is_no_pack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not hold compiled kernels"):
        packed.use_pack(tmp_path)


def test_cubins_of_an_engine_go_first_and_it_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, engine, own = tmp_path / "k.cu", tmp_path / "engine", tmp_path / "own"
    source.write_text("kernel")
    monkeypatch.setenv("INGOT_KERNELS", str(own))
    monkeypatch.setattr(cubin.shutil, "which", lambda name: name)
    monkeypatch.setattr(cubin, "with_nvcc", lambda source, options, arch: " ".join(options).encode())
    monkeypatch.setattr(cubin, "_carried", [])
    with cubin.recording(engine):
        assert cubin.cubin_of(source, {"A": 1}, "sm_90a") == b"-DA=1"
    cubin.use_cubins(engine)
    for path in own.iterdir():
        path.unlink()
    with compiling.refused():
        assert cubin.cubin_of(source, {"A": 1}, "sm_90a") == b"-DA=1"
        with pytest.raises(EngineError, match="does not carry"):
            cubin.cubin_of(source, {"A": 2}, "sm_90a")
    assert cubin.cubin_of(source, {"A": 2}, "sm_90a") == b"-DA=2"
    assert len(list(engine.iterdir())) == 1


def test_kernels_compile_for_hopper_without_a_gpu() -> None:
    """Each binary takes the arguments that a launch passes, then the scratch pointers that Triton adds."""
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("sm90.py")
    env = plain | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["symbol"] for line in lines] == ["add_rms_norm_kernel", "prefill_kernel", "scaled_gemm_kernel"]
    assert all(line["scratch"] in (1, 2) and line["bytes"] > 5000 for line in lines)
    assert lines[1]["wgmma"]
    assert "num_kv_heads" not in lines[1]["passed"]  # it was 1
