"""The status page in headless Chromium, over a live server under load: numbers move, nothing is complained about."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.client.fake_backend import FakeBackend
from tests.client.served import served
from tests.e2e.chromium import Browser, browser
from tests.engines import LOADER, NAME, worker_path, write_engine

from ingot.client.embedded import EmbeddedBackend, EmbeddedOptions
from ingot.client.openai.gate import GateOptions
from ingot.runtime.supervisor import SupervisorOptions

KEY = "for the page"
HEADERS = {"Authorization": f"Bearer {KEY}"}
TEXT = "document.getElementById({!r}).textContent"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = write_engine(tmp_path_factory.mktemp("page") / "engine", step_seconds=0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", worker_path())
        options = EmbeddedOptions(supervisor=SupervisorOptions(loader=LOADER))
        with served(EmbeddedBackend(folder, options), GateOptions(api_keys=(KEY,))) as url:
            yield url


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@contextmanager
def load(url: str, streams: int = 6) -> Iterator[None]:
    """People who ask again and again, until the block ends."""
    over = threading.Event()

    def person(number: int) -> None:
        body = {"model": NAME, "prompt": f"Tell me about {number}", "max_tokens": 40, "ignore_eos": True}
        with httpx.Client(base_url=url, headers=HEADERS, timeout=60) as http:
            while not over.is_set():
                http.post("/v1/completions", json=body).raise_for_status()

    people = [threading.Thread(target=person, args=(number,)) for number in range(streams)]
    for one in people:
        one.start()
    try:
        yield
    finally:
        over.set()
        for one in people:
            one.join()


def number(page: Browser, name: str) -> str:
    return str(page.value(TEXT.format(name)))


def moving(name: str) -> str:
    return f"/^[1-9]/.test({TEXT.format(name)})"


def test_the_page_asks_for_the_key_and_then_follows_the_load(url: str, page: Browser) -> None:
    page.open(url + "/")
    page.wait_for("!document.getElementById('ask').hidden")
    assert all("401" in one for one in page.said)  # the browser's own remark; there is no other way to learn of a key
    page.said.clear()
    page.wait_for("document.activeElement.id === 'key'")
    type_key(page, "wrong")
    page.wait_for(f"{TEXT.format('refused')} !== ''")
    page.said.clear()
    type_key(page, KEY)
    page.wait_for(f"{TEXT.format('state')} === 'Ready'")
    assert number(page, "running") == "0"
    assert number(page, "output") in ("–", "0")
    httpx.post(url + "/v1/completions", json={"model": "nobody", "prompt": "x"}, headers=HEADERS)
    with load(url):
        for name in ("output", "prompt", "running", "kv", "finished", "ttft-p50", "ttft-p95", "itl-p50", "e2e-p95"):
            page.wait_for(moving(name))
        first = number(page, "finished")
        page.wait_for(f"{TEXT.format('finished')} !== {first!r}")
        page.wait_for("document.querySelector('#output-line .lower').getAttribute('d').split('L').length > 2")
    page.wait_for(f"{TEXT.format('running')} === '0'")
    assert NAME in number(page, "models")
    assert "404" in number(page, "failures")
    assert page.said == []


def test_the_page_fits_a_phone_and_both_schemes(url: str, page: Browser) -> None:
    page.open(url + "/", width=360, height=740, dark=True)  # the tab still knows the key
    page.wait_for(f"{TEXT.format('state')} === 'Ready'")
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(20, 19, 15)"
    page.dark(False)
    assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(246, 245, 242)"
    assert page.said == []


def test_everything_has_a_name_for_those_who_listen(url: str, page: Browser) -> None:
    """What Chromium hands to screen readers: no control and no table without a name."""
    page.open(url + "/")
    page.wait_for(f"{TEXT.format('state')} === 'Ready'")
    nodes = page.command("Accessibility.getFullAXTree")["nodes"]
    roles = ("heading", "table", "region", "textbox", "combobox", "button", "status", "columnheader")
    found = [(node["role"]["value"], node.get("name", {}).get("value")) for node in nodes if not node["ignored"]]
    named = [(role, name) for role, name in found if role in roles and role != "status"]
    assert all(name for _, name in named), named
    assert {"heading", "table", "columnheader"} <= {role for role, _ in named}


def test_the_page_comes_back_after_the_server(tmp_path: Path, page: Browser) -> None:
    """A server that went away is said, not shown as if it were there."""
    with served(FakeBackend()) as url:
        page.open(url + "/")
        page.wait_for(f"{TEXT.format('state')} === 'Ready'")
    page.wait_for(f"{TEXT.format('state')} !== 'Ready'")
    assert "again" in number(page, "state") or "Reconnecting" in number(page, "state")
    page.said.clear()  # a refused connection is in the browser's log


def type_key(page: Browser, key: str) -> None:
    page.value(f"document.getElementById('key').value = {key!r}")
    page.value("document.getElementById('ask').requestSubmit()")
