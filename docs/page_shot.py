"""Draws docs/status-page.png: the status page over the bundled model, after a minute under a load that comes and goes.

python docs/page_shot.py ENGINE, by `make screenshot`.
"""

from __future__ import annotations

import math
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.client.served import served
from tests.e2e.chromium import browser

from ingot.client.embedded import EmbeddedBackend, EmbeddedOptions

SECONDS, STREAMS = 62, 16
TOPICS = ("the tide", "a harbour at night", "two bridges", "the baker's morning", "an old clock")


def person(url: str, number: int, over: threading.Event) -> None:
    """Answers of changing length with pauses between, and now and then a mistake."""
    with httpx.Client(base_url=url, timeout=60) as http:
        turn = 0
        while not over.is_set():
            turn += 1
            prompt = f"Once upon a time there was {TOPICS[(number + turn) % len(TOPICS)]}, and " * (1 + turn % 3)
            body = {"model": "tiny", "prompt": prompt, "max_tokens": 24 + 9 * number, "ignore_eos": True}
            http.post("/v1/completions", json=body)
            if turn % 9 == number:
                http.post("/v1/completions", json=body | {"model": "tiny:old"})
            if turn % 11 == number:
                http.post("/v1/chat/completions", json={"model": "tiny", "messages": []})
            over.wait(0.4 * (1 + math.sin(time.monotonic() / 4)))


def main(engine: Path) -> None:
    over = threading.Event()
    with served(EmbeddedBackend(engine, EmbeddedOptions(served_model_name="tiny"))) as url:
        people = [threading.Thread(target=person, args=(url, number, over)) for number in range(STREAMS)]
        with tempfile.TemporaryDirectory() as folder, browser(Path(folder)) as page:
            page.open(url + "/", height=820)
            for one in people:
                one.start()
            time.sleep(SECONDS)
            page.screenshot(ROOT / "docs" / "status-page.png")
            over.set()
        for one in people:
            one.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
