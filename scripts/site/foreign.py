"""What a built site would ask another host for: scripts, styles, fonts, pictures, frames. (A link to click is none.)"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

ELSEWHERE: Final = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
CSS_URL: Final = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])((?:[a-z]+:)?//[^'\")\s]+)", re.IGNORECASE)
# By a <link>: a page that one may go to, and nothing that is loaded.
NAMES_ONLY: Final = {"canonical", "prev", "next", "alternate", "license", "author", "help"}


class _Loads(HTMLParser):
    """The addresses that a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        self._style = tag == "style"
        if tag == "link" and not NAMES_ONLY & set(said.get("rel", "").split()):
            self.found.append(said.get("href", ""))
        self.found += [said[name] for name in ("src", "data", "poster") if name in said]
        self.found += [one.strip().split(" ")[0] for one in said.get("srcset", "").split(",")]
        self.found += CSS_URL.findall(said.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self._style:
            self.found += CSS_URL.findall(data)


def foreign(site: Path) -> list[str]:
    """Each as `file: address`."""
    said = []
    for path in sorted(site.rglob("*.html")):
        page = _Loads()
        page.feed(path.read_text(encoding="utf-8"))
        said += [f"{path.relative_to(site)}: {address}" for address in page.found if ELSEWHERE.match(address)]
    for path in sorted(site.rglob("*.css")):
        said += [f"{path.relative_to(site)}: {found}" for found in CSS_URL.findall(path.read_text(encoding="utf-8"))]
    return said
