"""Chat templates in their own process: what hostile ones may spend, and what becomes of those who come after them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from tests.waiting import until
from transformers.utils.chat_template_utils import render_jinja_template

from ingot.errors import IngotError, RequestError
from ingot.runtime.rendering import MODULE, Renderer
from ingot.runtime.request import Prompt
from ingot.runtime.template import ChatTemplate

USER = [{"role": "user", "content": "hi"}]
PLAIN = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
NESTED = "{% for a in range(10**5) %}" * 4 + "{% endfor %}" * 4
DOUBLING = "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"


def render(source: str, messages: list[dict[str, object]] | None = None) -> str:
    prompt = Prompt(messages=USER if messages is None else messages)
    return ChatTemplate({"default": source}, {"bos_token": "<s>"}).render(prompt)


@pytest.mark.parametrize(
    "source",
    [
        NESTED,
        DOUBLING,
        "{{ 'x' * 10**11 }}",
        "{{ '%099999999999d' % 1 }}",
        "{{ messages | map('string') | join('x' * 10**9) * 10 }}",
        "{{ 'x' * 30000000 }}",
    ],
    ids=["loops", "doubling", "product", "format", "join", "long"],
)
def test_attack_13_a_hostile_template_spends_its_share_and_no_more(source: str) -> None:
    with pytest.raises(RequestError, match="does not take these messages"):
        render(source)
    assert render(PLAIN) == "<s>hi"


def test_a_template_that_is_hostile_to_one_chat_holds_up_no_thread_for_long() -> None:
    with ThreadPoolExecutor(4) as chats:
        hostile = chats.submit(render, NESTED)
        others = [chats.submit(render, PLAIN) for _ in range(20)]
        assert {other.result(60) for other in others} == {"<s>hi"}
        assert isinstance(hostile.exception(60), RequestError)


def test_it_renders_as_the_library_does() -> None:
    source = (
        "{%- for m in messages %}\n  {{- m.role + ': ' + m.content | trim }}\n{% if loop.last %}{% break %}{% endif %}"
        "{%- endfor %}{% generation %}{{ {'a': '<b>', 'é': 1} | tojson }}{% endgeneration %}"
    )
    chat = [{"role": "user", "content": " é😀\u2028 "}, {"role": "assistant", "content": "x"}]
    (expected,), _ = render_jinja_template(conversations=[chat], chat_template=source, bos_token="<s>")
    assert render(source, [*chat]) == expected


def test_values_that_are_not_json_are_refused() -> None:
    with pytest.raises(RequestError, match="not JSON"):
        render(PLAIN, [{"role": "user", "content": object()}])


def processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if MODULE in child.cmdline()]


def test_a_process_that_was_killed_is_started_again_and_none_is_left_over() -> None:
    before = {process.pid for process in processes()}
    renderer = Renderer()
    call = {"conversations": [USER], "chat_template": PLAIN}
    assert renderer.ask(call) == {"text": "hi"}
    mine = [process for process in processes() if process.pid not in before]
    for process in mine:
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(IngotError, match="is gone"):
        renderer.ask(call)
    assert renderer.ask(call) == {"text": "hi"}
    renderer.close()
    until(lambda: {process.pid for process in processes()} <= before)


def test_it_ends_with_its_parent_even_where_that_is_killed() -> None:
    program = f"""
import os, sys
from ingot.runtime.rendering import RENDERER
RENDERER.ask({{"conversations": [[]], "chat_template": "x"}})
import psutil
print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
os.kill(os.getpid(), {int(signal.SIGKILL)})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2, done.stderr
    until(lambda: not any(is_alive(pid) for pid in pids))


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_threads_take_turns() -> None:
    with ThreadPoolExecutor(8) as chats:
        texts = chats.map(render, [PLAIN] * 200, [[{"role": "user", "content": str(i)}] for i in range(200)])
        assert [*texts] == [f"<s>{i}" for i in range(200)]
