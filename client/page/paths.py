"""Where the page's parts are. Nothing else, so that the gate can know it too."""

from __future__ import annotations

STREAM = "/page/stream"
OPEN_FILES = {  # path: file and type
    "/": ("index.html", "text/html"),
    "/page/page.css": ("page.css", "text/css"),
    "/page/page.js": ("page.js", "text/javascript"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}
