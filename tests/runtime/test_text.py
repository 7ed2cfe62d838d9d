"""The tokenizer's files: what is read from an engine folder, and what its chat template makes of messages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors

from ingot.errors import EngineError, RequestError
from ingot.runtime.request import Prompt
from ingot.runtime.text import Tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'bad' %}{{ raise_exception('no such role') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if tools %}({{ tools | length }} tools){% endif %}{% if think %}<think>{% endif %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
USER = [{"role": "user", "content": "hi"}]


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={letter: rank for rank, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    backend.enable_truncation(3)
    backend.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path / "config.json", {"vocab_size": 300, "eos_token_id": 7})
    write(tmp_path / "tokenizer_config.json", {"bos_token": {"content": "<s>"}, "eos_token": None})
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    return tmp_path


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def render(engine: Path, **fields: Any) -> str:
    tokenizer = Tokenizer.from_engine(engine)
    return tokenizer.decode(tokenizer.encode_prompt(Prompt(**fields)), skip_special_tokens=False)


def test_sizes_and_ends_come_from_the_configs(engine: Path) -> None:
    assert Tokenizer.from_engine(engine).vocab_size == 300
    assert Tokenizer.from_engine(engine).eos_token_ids == (7,)
    write(engine / "generation_config.json", {"eos_token_id": [8, 9]})
    assert Tokenizer.from_engine(engine).eos_token_ids == (8, 9)
    write(engine / "generation_config.json", {})
    write(engine / "config.json", {"text_config": {"vocab_size": 400, "eos_token_id": [5]}})
    assert Tokenizer.from_engine(engine).vocab_size == 400
    assert Tokenizer.from_engine(engine).eos_token_ids == (5,)


def test_text_prompts_get_special_tokens_and_are_never_truncated(engine: Path) -> None:
    assert render(engine, text="hello") == "<s>hello"
    assert render(engine, text="hello", add_special_tokens=False) == "hello"


def test_messages_are_rendered_and_get_no_special_tokens_twice(engine: Path) -> None:
    assert render(engine, messages=USER) == "<s>[user]hi[assistant]"
    assert render(engine, messages=USER, add_generation_prompt=False) == "<s>[user]hi"
    assert render(engine, messages=USER, template_args={"think": True}) == "<s>[user]hi<think>[assistant]"
    assert render(engine, messages=USER, tools=[{"type": "function"}]) == "<s>[user]hi(1 tools)[assistant]"


def test_a_final_message_can_be_continued(engine: Path) -> None:
    messages = [*USER, {"role": "assistant", "content": "Well, "}]
    shown = render(engine, messages=messages, continue_final_message=True, add_generation_prompt=False)
    assert shown == "<s>[user]hi[assistant]Well, "


def test_named_templates_of_older_checkpoints_are_read(engine: Path) -> None:
    (engine / "chat_template.jinja").unlink()
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    write(engine / "tokenizer_config.json", {"chat_template": named})
    assert render(engine, messages=USER) == "plain"
    assert render(engine, messages=USER, tools=[{"type": "function"}]) == "tools"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": [{"role": "bad", "content": ""}]}, "no such role"),
        ({"messages": []}, "no messages"),
        ({"messages": USER, "template_args": {"chat_template": "mine"}}, "chat_template"),
        ({"messages": USER, "template_args": {"messages": []}}, "messages"),
    ],
)
def test_messages_that_the_template_refuses(engine: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        render(engine, **fields)


def test_templates_cannot_reach_out_of_the_sandbox(engine: Path) -> None:
    (engine / "chat_template.jinja").write_text("{{ messages.__class__.__base__.__subclasses__() }}")
    with pytest.raises(RequestError, match="unsafe"):
        render(engine, messages=USER)


def test_a_broken_template_is_the_engines_fault(engine: Path) -> None:
    (engine / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(EngineError, match="not valid jinja2"):
        render(engine, messages=USER)


def test_an_engine_without_template_reads_no_messages(engine: Path) -> None:
    (engine / "chat_template.jinja").unlink()
    assert not Tokenizer.from_engine(engine).has_chat_template
    with pytest.raises(RequestError, match="no chat template"):
        render(engine, messages=USER)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("tokenizer.json", "{}", "not a tokenizer"),
        ("config.json", "{", "not valid JSON"),
        ("generation_config.json", "[]", "no JSON object"),
    ],
)
def test_damaged_engines_are_refused(engine: Path, name: str, content: str | None, message: str) -> None:
    (engine / name).unlink(missing_ok=True)
    if content is not None:
        (engine / name).write_text(content)
    with pytest.raises(EngineError, match=message):
        Tokenizer.from_engine(engine)


def test_the_text_side_loads_no_torch_even_for_chats(engine: Path) -> None:
    probe = f"""
import sys
from pathlib import Path
from ingot.runtime.text import Tokenizer
from ingot.runtime.request import Prompt
assert not {{"torch", "transformers"}} & set(sys.modules)
Tokenizer.from_engine(Path({str(engine)!r})).encode_prompt(Prompt(messages=[{{"role": "user", "content": "hi"}}]))
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
