"""What the site needs of files that lie outside docs/: the pages, and links to them.

Links in every Markdown file are those of the repository, so that they work there too. The site has
docs/X as X, and any other file of the repository under its own name, if a page links to it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parent.parent
# Pages of the site whether anything links to them or not.
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: Any) -> Files:
    """Adds what pages link to, and what these link to."""
    waiting = list(PAGES)
    for page in files.documentation_pages():
        waiting += _targets(page.content_string, f"docs/{page.src_uri}")
    while waiting:
        path = waiting.pop()
        if path.startswith("docs/") or files.get_file_from_path(path) is not None:
            continue
        source = ROOT / path
        if not source.is_file():
            continue  # the link is left as it is, and found to be broken
        nav = InclusionLevel.INCLUDED if path in PAGES else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, path, abs_src_path=str(source), inclusion=nav))
        if path.endswith(".md"):
            waiting += _targets(source.read_text(encoding="utf-8"), path)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links of the repository become links of the site."""
    uri = page.file.src_uri
    own = f"docs/{uri}" if (ROOT / "docs" / uri).is_file() else uri

    def on_site(match: re.Match[str]) -> str:
        target = _resolved(match[2], own)
        if target is None:
            return match[0]
        there = posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(uri) or ".")
        return f"{match[1]}{there}{match[3]}"

    return LINK.sub(on_site, markdown)


def _targets(markdown: str, own: str) -> list[str]:
    found = (_resolved(match[2], own) for match in LINK.finditer(markdown))
    return [path for path in found if path is not None]


def _resolved(link: str, own: str) -> str | None:
    """A link of a file of the repository as a path of it; None for what leads elsewhere."""
    if re.match(r"[a-z]+:", link):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(own), link))
