"""Headless Chromium over its own pipe (--remote-debugging-pipe): no driver, no websocket, no library."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", MAC)
SECONDS = 60.0  # for one command, on a loaded machine
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers run as root, where Chromium's sandbox does not
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)


class Browser:
    """One page. `said` collects everything that the page or the browser complained about."""

    def __init__(self, process: subprocess.Popen[bytes], send: int, receive: int) -> None:
        self._process, self._send, self._receive = process, send, receive
        self._selector = selectors.DefaultSelector()
        self._selector.register(receive, selectors.EVENT_READ)
        self._held = b""
        self._number = 0
        self._loads = 0
        self._session: str | None = None
        self.said: list[str] = []
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, f"{method}: {found['error']}"
                return dict(found["result"])

    def open(self, url: str, *, width: int = 1280, height: int = 960, dark: bool = False) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        self.dark(dark)
        before = self._loads
        self.command("Page.navigate", url=url)
        while self._loads == before:
            self._next()

    def dark(self, dark: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def value(self, expression: str) -> Any:
        found = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Until the expression is true in the page."""
        deadline = time.monotonic() + SECONDS
        while not (found := self.value(expression)):
            assert time.monotonic() < deadline, f"never true: {expression}; the page said {self.said}"
            time.sleep(0.05)
        return found

    def screenshot(self, path: Path) -> None:
        size = self.command("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        found = self.command("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self._held:
            assert self._selector.select(deadline - time.monotonic()), "Chromium does not answer"
            part = os.read(self._receive, 1 << 16)
            assert part, f"Chromium ended with status {self._process.wait(10)}"
            self._held += part
        text, _, self._held = self._held.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._listen(message.get("method", ""), message.get("params", {}))
        return message

    def _listen(self, method: str, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loads += 1
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.said.append(str([one.get("value", one.get("description")) for one in params["args"]]))
        elif method == "Runtime.exceptionThrown":
            self.said.append(json.dumps(params["exceptionDetails"]))
        elif method == "Log.entryAdded":
            entry = params["entry"]
            self.said.append(f"{entry['text']} {entry.get('url', '')}")


def find_chromium() -> str:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found, f"None of {', '.join(NAMES)} is installed. `make chromium` installs it where apt can."
    return found


def high_pipe() -> tuple[int, int]:
    """Read and write end, clear of the numbers that they are moved to."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """`folder` holds its profile."""
    (theirs_in, ours_out), (ours_in, theirs_out) = high_pipe(), high_pipe()
    words = [find_chromium(), *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    # The protocol's descriptors are 3 and 4 by definition; the shell moves the pipes there.
    shell = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *words]
    env = os.environ | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(shell, pass_fds=(theirs_in, theirs_out), env=env, stdout=log, stderr=log)
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        opened = Browser(process, ours_out, ours_in)
        yield opened
        opened._session = None
        with suppress(AssertionError, OSError):
            opened.command("Browser.close")
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
    finally:
        process.kill()
        process.wait()
        os.close(ours_out)
        os.close(ours_in)
