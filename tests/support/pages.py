"""Who writes metrics for a control listener that is tested alone."""

from __future__ import annotations

from collections.abc import Callable

from fastgw.observe.exposition import TEXT
from fastgw.observe.pages import Page


class Written:
    """Gives that text, to anybody."""

    def __init__(self, text: Callable[[], bytes] = bytes) -> None:
        self._text = text
        self.asked: list[tuple[str, str]] = []

    async def page(self, accept: str, accept_encoding: str) -> Page:
        self.asked.append((accept, accept_encoding))
        return Page(self._text(), TEXT, {"Vary": "Accept"})

    async def close(self) -> None: ...
