"""A Hugging Face Hub on loopback: the endpoints huggingface_hub uses to fetch a snapshot, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """One repository, `model`, holding the files of a folder."""

    model: str
    folder: Path
    token: str | None = None  # asked of every request, where set
    gated: bool = False
    cut_after: int | None = None  # the next file of more bytes is cut off there
    broken: str | None = None  # this file answers 500
    url: str = ""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Range

    @contextmanager
    def serving(self) -> Iterator[FakeHub]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(hub, self)

            def do_HEAD(self) -> None:
                answer(hub, self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def answer(hub: FakeHub, request: BaseHTTPRequestHandler) -> None:
    path = unquote(urlsplit(request.path).path)
    hub.asked.append((request.command, path, request.headers.get("Range")))
    if hub.token and request.headers.get("Authorization") != f"Bearer {hub.token}":
        return reply(request, 401, {"X-Error-Code": "RepoNotFound"})
    if hub.gated:
        return reply(request, 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
    names = sorted(path.relative_to(hub.folder).as_posix() for path in hub.folder.rglob("*") if path.is_file())
    if re.fullmatch(rf"/api/models/{hub.model}(/revision/(main|{COMMIT}))?", path):
        info = {"id": hub.model, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
        return reply(request, 200, {"Content-Type": "application/json"}, json.dumps(info).encode())
    if re.fullmatch(rf"/api/models/{hub.model}/revision/.*", path):
        return reply(request, 404, {"X-Error-Code": "RevisionNotFound"})
    if re.fullmatch(rf"/api/models/{hub.model}/tree/{COMMIT}", path):
        tree = [{"type": "file", "path": name, **stamp(hub.folder / name)} for name in names]
        return reply(request, 200, {"Content-Type": "application/json"}, json.dumps(tree).encode())
    found = re.fullmatch(rf"/{hub.model}/resolve/{COMMIT}/(.+)", path)
    if found and found[1] in names:
        return send_file(hub, request, hub.folder / found[1])
    return reply(request, 404, {"X-Error-Code": "RepoNotFound"})


def stamp(path: Path) -> dict[str, object]:
    content = path.read_bytes()
    return {"oid": hashlib.sha1(content).hexdigest(), "size": len(content)}


def send_file(hub: FakeHub, request: BaseHTTPRequestHandler, path: Path) -> None:
    if request.command == "GET" and path.name == hub.broken:
        return reply(request, 500, {})
    content = path.read_bytes()
    headers = {"ETag": f'"{stamp(path)["oid"]}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
    wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range") or "")
    if request.command == "GET" and hub.cut_after is not None and len(content) > hub.cut_after:
        cut, hub.cut_after = hub.cut_after, None
        return reply(request, 200, {**headers, "Content-Length": str(len(content))}, content[:cut])
    if wanted:
        start = int(wanted[1])
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return reply(request, 206, headers, content[start:])
    return reply(request, 200, headers, content)


def reply(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes = b"") -> None:
    """HTTP/1.0: the connection closes with the body, so a body shorter than its Content-Length is a cut line."""
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
