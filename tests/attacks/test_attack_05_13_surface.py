"""Attacks 5 to 13: names, routes, keys, fetches and templates."""

from __future__ import annotations

import hmac
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from starlette.routing import Route
from tests.attacks.conftest import KEY, refused
from tests.client.fake_backend import FakeBackend
from tests.engines import NAME

from ingot.client.openai.app import create_app
from ingot.client.page.paths import OPEN_FILES
from ingot.errors import RequestError
from ingot.runtime.request import Prompt
from ingot.runtime.template import ChatTemplate

CHAT = {"model": NAME, "messages": [{"role": "user", "content": "hi"}]}
NAMES = ["../../etc/passwd", "/etc/passwd", "a\x00b", "%2e%2e/x", "x;$(touch y)", "a\nb", "models:/m/1", "x" * 10_000]


def test_attack_05_model_names_reach_no_file_and_no_shell(attacked: httpx.Client) -> None:
    for name in NAMES:
        reply = attacked.post("/v1/completions", json={"model": name, "prompt": "x"})
        if len(name) > 512:
            assert "model" in refused(reply)
        else:
            assert "No model is called" in refused(reply, 404)
        assert attacked.post("/api/show", json={"model": name[:512]}).status_code == 404
    for path in ("/v1/models/..%2f..%2fetc%2fpasswd", "/v1/models/%2e%2e", "/v1/models/a%00b", "/v1/models/%0a"):
        assert attacked.get(path).status_code == 404


def test_attack_06_07_there_is_nothing_to_control_a_server_with(attacked: httpx.Client) -> None:
    for path in (
        "/v2/repository/models/x/load",
        "/v2/repository/index",
        "/v2/logging",
        "/v2/trace/setting",
        "/v2/systemsharedmemory/region/x/register",
        "/pause",
        "/update_weights",
        "/server_info",
        "/invocations",
        "/api/pull",
        "/api/create",
        "/api/delete",
    ):
        for method in ("GET", "POST", "DELETE"):
            assert attacked.request(method, path, json={"model": NAME}).status_code == 404


def test_attack_08_every_route_asks_for_the_key(target: httpx.Client) -> None:
    routes = [route for route in create_app(FakeBackend()).routes if isinstance(route, Route)]
    walked = {(method, route.path) for route in routes for method in route.methods or ()}
    assert {path for _, path in walked} >= {"/v1/messages", "/v1/responses", "/generate", "/api/chat", "/metrics", "/"}
    files = {(method, path) for method in ("GET", "HEAD") for path in OPEN_FILES}  # the status page's, without figures
    for method, path in sorted(walked - files):
        assert httpx.request(method, f"{target.base_url}{path}").status_code == 401, path


def test_attack_09_keys_are_compared_in_constant_time_and_never_logged(
    attacked: httpx.Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def counted(given: bytes, known: bytes) -> bool:
        compared.append(given)
        return compare(given, known)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    caplog.set_level(logging.DEBUG)
    wrong = "wrong-" + KEY
    for headers in ({"Authorization": f"Bearer {wrong}"}, {"X-Api-Key": wrong}):
        assert KEY not in httpx.get(f"{attacked.base_url}/v1/models", headers=headers).text
    assert len(compared) >= 2
    assert {len(given) for given in compared} == {32}  # digests, so that length tells nothing
    assert KEY not in attacked.get("/version").text + attacked.get("/metrics").text
    server = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert not [message for message in server if KEY in message]


@contextmanager
def nobody_knocks() -> Iterator[int]:
    """A port of ours that must see no connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]
        listening.settimeout(0.05)
        with pytest.raises(TimeoutError):
            listening.accept()


def test_attack_10_12_nothing_is_fetched_and_no_image_is_decoded(attacked: httpx.Client) -> None:
    with nobody_knocks() as port:
        for url in (
            f"http://127.0.0.1:{port}/x.png",
            f"http://localhost:{port}",
            f"http://[::1]:{port}",
            f"http://2130706433:{port}",
            f"http://a@127.0.0.1:{port}\\@b",
            "file:///etc/passwd",
            "http://169.254.169.254/latest/meta-data",
            "data:image/png;base64,iVBORw0KGgo=",
        ):
            for part in (
                {"type": "image_url", "image_url": {"url": url}},
                {"type": "image", "source": {"type": "url", "url": url}},
                {"type": "input_image", "image_url": url},
            ):
                message = {"role": "user", "content": [part]}
                assert url not in refused(attacked.post("/v1/chat/completions", json=CHAT | {"messages": [message]}))
                body: dict[str, Any] = {"model": NAME, "max_tokens": 5, "messages": [message]}
                refused(attacked.post("/v1/messages", json=body))
                refused(attacked.post("/v1/responses", json={"model": NAME, "input": [message]}))
        images = {"model": NAME, "prompt": "x", "images": ["aGk="], "stream": False}
        assert attacked.post("/api/generate", json=images).status_code == 400


def test_attack_11_a_link_in_a_prompt_stays_text(attacked: httpx.Client) -> None:
    with nobody_knocks() as port:
        text = f"![x](http://127.0.0.1:{port}/x.png)"
        for path in ("/generate", "/"):
            assert attacked.post(path, json={"inputs": text, "parameters": {"max_new_tokens": 2}}).status_code == 200
        body = CHAT | {"messages": [{"role": "user", "content": text}], "max_tokens": 2}
        assert attacked.post("/v1/chat/completions", json=body).status_code == 200


def test_attack_13_a_request_brings_no_template(attacked: httpx.Client) -> None:
    evil = "{{ ''.__class__.__mro__ }}"
    refused(attacked.post("/v1/chat/completions", json=CHAT | {"chat_template": evil}))
    kwargs = {"chat_template_kwargs": {"chat_template": evil}}
    assert "set by the server" in refused(attacked.post("/v1/chat/completions", json=CHAT | kwargs))
    assert attacked.post("/api/generate", json={"model": NAME, "prompt": "x", "template": evil}).status_code == 400


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no') }}",
    ],
)
def test_attack_13_a_template_runs_in_a_sandbox(source: str) -> None:
    done = threading.Event()

    def render() -> None:
        with pytest.raises(RequestError):
            ChatTemplate({"default": source}, {}).render(Prompt(messages=[{"role": "user", "content": "x"}]))
        done.set()

    thread = threading.Thread(target=render, daemon=True)
    thread.start()
    assert done.wait(30)
    thread.join()
