"""The page that scrapers get: made when one asks, kept for a while, and shared by all who ask meanwhile.

Owns: the text as it was made last, in each format, and packed. It is made in pieces, between which the loop gets its turn, and
packed in a thread. Must never: make two at once of one format, or hold more than the last of each.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, NamedTuple, Protocol

from fastgw.net.clock import monotonic
from fastgw.observe.exposition import OPENMETRICS, TEXT, Family, accepted, as_openmetrics, pieces, takes_gzip

LEVEL: Final = 1  # of gzip: ten times smaller, at a tenth of a second for ten megabytes
_END: Final = b"# EOF\n"


class More(Protocol):
    """Metrics that others have."""

    async def page(self) -> bytes:
        """All of them as Prometheus's text, with an end to the wait."""
        ...

    async def close(self) -> None: ...


class Page(NamedTuple):
    """``body``, and the fields that go with it."""

    body: bytes
    media_type: str
    fields: dict[str, str]


class _Made(NamedTuple):
    at: float
    text: bytes
    packed: bytes


class MetricsPages:
    """See the head of this file. ``spawn`` makes a task that belongs to the gateway; ``keep_s``: for so long a page is good."""

    def __init__(
        self,
        families: Callable[[], Iterable[Family | None]],
        spawn: Callable[[str, Coroutine[Any, Any, _Made]], asyncio.Task[_Made]],
        *,
        keep_s: Callable[[], float],
        hurry: Callable[[], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._families = families
        self._spawn = spawn
        self._keep_s = keep_s
        self._hurry = hurry
        self._clock = clock
        self.more: More | None = None
        self._made: dict[str, _Made] = {}
        self._making: dict[str, asyncio.Task[_Made]] = {}

    async def page(self, accept: str, accept_encoding: str) -> Page:
        """What a scraper gets who takes these (the fields of its request; "" = it does not say)."""
        media_type = accepted(accept)
        made = self._made.get(media_type)
        if made is None or self._clock() - made.at >= self._keep_s():
            task = self._making.get(media_type)
            if task is None:
                task = self._making[media_type] = self._spawn("metrics", self._make(media_type))
            # (Who leaves does not take the page from the others.)
            made = await asyncio.shield(task)
        fields = {"Vary": "Accept, Accept-Encoding"}
        if not takes_gzip(accept_encoding):
            return Page(made.text, media_type, fields)
        fields["Content-Encoding"] = "gzip"
        return Page(made.packed, media_type, fields)

    async def close(self) -> None:
        """Nobody asks any more."""
        if self.more is not None:
            await self.more.close()

    async def _make(self, media_type: str) -> _Made:
        try:
            at = self._clock()
            text = bytearray()
            for piece in pieces(self._families(), media_type == OPENMETRICS):
                text += piece
                self._hurry()
                await asyncio.sleep(0)
            if self.more is not None:
                more = await self.more.page()
                if media_type == TEXT:
                    text += more
                else:
                    text[-len(_END) :] = as_openmetrics(more) + _END
            whole = bytes(text)
            made = self._made[media_type] = _Made(at, whole, await asyncio.to_thread(gzip.compress, whole, LEVEL))
            return made
        finally:
            del self._making[media_type]
