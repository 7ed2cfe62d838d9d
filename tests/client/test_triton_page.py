"""docs/triton.md names flags and tensors that exist."""

from __future__ import annotations

import re
from pathlib import Path

from ingot.cli import cli
from ingot.templates import ModelSpec
from ingot.templates.render import repository_files

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "triton.md").read_text()


def flags_of(command: str) -> set[str]:
    found = cli.get_command(cli.make_context("ingot", ["--help"], resilient_parsing=True), command)
    assert found is not None
    return {word for option in found.params for word in option.opts}


def test_every_build_flag_of_the_table_exists() -> None:
    table = PAGE.partition("| trtllm-build")[2]
    ours = [line.split("|")[2] for line in table.splitlines() if line.count("|") == 3]
    asked = {flag for cell in ours for flag in re.findall(r"`(--[a-z-]+)", cell)}
    assert len(asked) > 8
    assert asked <= flags_of("build")


def test_every_flag_of_the_examples_exists() -> None:
    for command in ("render", "triton", "ask", "serve"):
        for line in re.findall(rf"^ingot {command} .*$", PAGE, re.MULTILINE):
            assert set(re.findall(r"(?<= )--?[a-z-]+", line.partition("#")[0])) <= flags_of(command), line


def test_every_tensor_of_the_page_is_in_the_config() -> None:
    config = repository_files(ModelSpec(name="tiny", versions={1: "/engines/a"}))["tiny/config.pbtxt"]
    table = PAGE.partition("### Tensors")[2].partition("The plain tensors")[0]
    named = {
        word for row in re.findall(r"^\| (.*) \|$", table, re.MULTILINE) for word in re.findall(r"`([a-z_]+)`", row)
    }
    tensors = set(re.findall(r'name: "([a-z_]+)" ', config))
    assert tensors <= named
    assert named - tensors <= {"stop", "length", "abort"}
