"""The page of a server: its files, read once."""

from __future__ import annotations

from importlib.resources import files

KINDS = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "digit.png": "image/png",
}


def page_files() -> dict[str, tuple[bytes, str]]:
    """Each path that is served, with its bytes and their type; nothing else is ever read."""
    folder = files(__package__)
    served = {f"/{name}": ((folder / name).read_bytes(), kind) for name, kind in KINDS.items()}
    served["/"] = served.pop("/index.html")
    return served
