"""The command line: light until it works, errors with their mend, exit codes that scripts can trust."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ingot.builder.commands import ByteSize
from ingot.builder.doctor import doctor
from ingot.cli import COMMANDS, cli
from ingot.errors import EngineError, QualityError
from ingot.manifest import read_manifest
from ingot.tensorrt_library import LIBRARIES


def ingot(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ingot.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "120"})


@pytest.fixture(scope="module")
def engine(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the command itself, from a copy of the model that lies beside it."""
    root = tmp_path_factory.mktemp("cli")
    shutil.copytree(llama, root / "model")
    done = ingot(
        *("build", root / "model", "-o", root / "engine", "--quant", "fp8-dynamic", "--target", "cpu"),
        *(
            "--cache",
            root / "cache",
            "--verify-tokens",
            "64",
            "--max-kl",
            "1",
            "--max-ppl-ratio",
            "2",
            "--min-agreement",
            "0.1",
        ),
    )
    assert done.returncode == 0, done.stderr
    for said in ("The build needs about", "quantize", "pack", "Memory plan", "kv_pool", "Quality", "within its bounds"):
        assert said in done.stdout
    return root / "engine"


def test_help_lists_every_command_and_imports_none() -> None:
    probe = (
        "import sys\nfrom click.testing import CliRunner\nfrom ingot.cli import cli\n"
        "print(CliRunner().invoke(cli, ['--help']).output)\n"
        "print(sorted({'torch', 'transformers', 'modelopt', 'fastapi', 'huggingface_hub', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert all(re.search(rf"^  {name} ", done.stdout, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists(name: str) -> None:
    assert CliRunner().invoke(cli, [name, "--help"]).exit_code == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ("build", "/nowhere", "-o", "/tmp/x"),
            1,
            "Error: /nowhere is neither a folder nor a Hub id.\nName an existing folder",
        ),
        (("build", "m", "-o", "x", "--page-size", "3"), 2, "Error: --page-size is 3.\nGive a power of two"),
        (("build", "m", "-o", "x", "--quant", "fp7"), 2, "Invalid value for '--quant'"),
        (("build", "m"), 2, "Missing option '-o'"),
        (("inspect", "/nowhere"), 1, "Error: /nowhere has no manifest.json, so it is not an engine.\nBuild one"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_errors_say_the_mend_and_set_the_exit_code(words: tuple[str, ...], code: int, said: str) -> None:
    done = ingot(*words)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_library_names_its_extra() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.modules['rich.console'] = None\nfrom ingot.cli import main; main()",
            "inspect",
            "x",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Error: ingot inspect needs the package rich.console" in done.stderr
    assert "pip install 'ingot[build]'" in done.stderr


def test_inspect_shows_the_manifest(engine: Path) -> None:
    done = ingot("inspect", engine)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(engine)
    for said in (
        "Recipe",
        "fp8-dynamic",
        "Limits",
        "max_num_seqs",
        "Memory plan",
        "Quality",
        "Files",
        "Versions",
        "safetensors",
    ):
        assert said in done.stdout
    shown = json.loads(ingot("inspect", engine, "--json").stdout)
    assert shown["rebuild"] == manifest.rebuild
    assert "--quant fp8-dynamic" in shown["rebuild"]


def test_verify_passes_a_sound_engine(engine: Path) -> None:
    done = ingot("verify", engine)
    assert done.returncode == 0, done.stderr
    assert "3 files are as the manifest lists them." in done.stdout
    assert "within its bounds" in done.stdout


def test_verify_refuses_damage_and_loss(engine: Path, tmp_path: Path) -> None:
    shutil.copytree(engine, tmp_path / "engine")
    path = tmp_path / "engine" / "manifest.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "recipe": {**fields["recipe"], "max_kl": 0.0}}))
    past = CliRunner().invoke(cli, ["verify", str(tmp_path / "engine")])
    assert isinstance(past.exception, QualityError)
    assert "mean KL divergence" in str(past.exception)
    (tmp_path / "engine" / "tokenizer.json").write_text("{}")
    damaged = CliRunner().invoke(cli, ["verify", str(tmp_path / "engine")])
    assert isinstance(damaged.exception, EngineError)


def test_verify_knows_another_original(engine: Path, llama: Path, tmp_path: Path) -> None:
    shutil.copytree(llama, tmp_path / "other")
    config = (llama / "config.json").read_text()
    (tmp_path / "other" / "config.json").write_text(config.replace("10000.0", "20000.0"))
    found = CliRunner().invoke(cli, ["verify", str(engine), "--model", str(tmp_path / "other")])
    assert isinstance(found.exception, EngineError)
    assert "is not the checkpoint" in str(found.exception)
    assert CliRunner().invoke(cli, ["verify", str(engine), "--files-only"]).exit_code == 0


def test_doctor_names_package_and_page_of_each_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingot.builder.doctor.installed", lambda name: None if "tensorrt" in name else "1.0")
    told = CliRunner().invoke(doctor, env={"COLUMNS": "80"}).output.splitlines()
    for library in LIBRARIES.values():
        assert f"{library.package}: {library.install}" in told, "on one line, to be copied"
    assert any("targets" in line and "tensorrt" not in line for line in told)


def test_doctor_reports_and_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    well = CliRunner().invoke(doctor, env={"COLUMNS": "200"})
    assert well.exit_code == 0
    assert "Ready to build and serve." in well.output
    assert all(
        name in well.output for name in ("python", "torch", "nvidia-modelopt", "disk for the cache", "tritonserver")
    )
    original = sys.modules["ingot.builder.doctor"].installed
    monkeypatch.setattr(
        "ingot.builder.doctor.installed", lambda name: None if name == "transformers" else original(name)
    )
    ill = CliRunner().invoke(doctor, env={"COLUMNS": "200"})
    assert ill.exit_code == 1
    assert "Missing: transformers." in ill.output
    assert "pip install 'ingot[build]'" in ill.output


@pytest.mark.parametrize(
    ("text", "size"), [("1024", 1024), ("4k", 4096), ("512MiB", 512 << 20), ("1.5G", 3 << 29), ("2 TB", 2 << 40)]
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert ByteSize().convert(text, None, None) == size
