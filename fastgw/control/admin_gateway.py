"""``/admin`` itself, and what the gateway tells of itself: its health, metrics, settings, and what happens to its engines.

Owns: the bounds on who reads events. Must never: show a secret (what it is given holds none), or keep an event for a reader who
does not take it: he is cut (``control.server``), comes again and says which one he had last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from fastgw.control.call import AdminAnswer, AdminCall, query_of
from fastgw.control.openapi import described_by
from fastgw.control.routes import FLAG, Parameter, Role, Route, count
from fastgw.errors import GatewayError

METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"  # the Prometheus text format; OpenMetrics where it is asked for
EVENTS: Final = "text/event-stream"
MAX_READERS: Final = 16
"""Of events, at once."""
QUIET_S: Final = 15.0
"""A comment is sent when nothing has happened for so long: a reader who has gone is noticed."""
MAX_NUMBER: Final = 10**15


class Told(Protocol):
    """What has happened, once."""

    @property
    def number(self) -> int: ...
    @property
    def at(self) -> float: ...
    @property
    def what(self) -> str: ...
    @property
    def engine(self) -> str: ...
    @property
    def detail(self) -> str: ...


class EventsBackend(Protocol):
    """What has happened to the engines. Everything runs in the loop."""

    @property
    def last(self) -> int:
        """The number of the latest."""
        ...

    @property
    def closed(self) -> bool: ...

    def since(self, number: int) -> tuple[Sequence[Told], bool]:
        """What came after ``number``, and whether some of that is not kept any more; of a number that is none yet, all that is
        kept, and that some is not."""
        ...

    async def more(self) -> None:
        """Return when there is more, or there will be none."""
        ...


class MetricsPage(Protocol):
    """What a scraper gets."""

    @property
    def body(self) -> bytes: ...
    @property
    def media_type(self) -> str: ...
    @property
    def fields(self) -> dict[str, str]: ...


class Metrics(Protocol):
    """Who writes it."""

    async def page(self, accept: str, accept_encoding: str) -> MetricsPage:
        """For one who says that he takes these, with an end to the wait."""
        ...

    async def close(self) -> None: ...


class Health(msgspec.Struct):
    status: str
    healthy_engines: int
    total_engines: int


class RouteShown(msgspec.Struct):
    method: str
    path: str
    role: str
    summary: str


class RouteList(msgspec.Struct, kw_only=True):
    data: Sequence[RouteShown]
    object: str = "list"


class ConfigShown(msgspec.Struct):
    """``settings`` by their names, as they hold, of a secret only that it is set; ``restart``: those that are written
    otherwise, and wait for a restart."""

    settings: Mapping[str, Any]
    restart: Sequence[str]


class EventShown(msgspec.Struct):
    """``at``: Unix seconds."""

    number: int
    at: float
    what: str
    engine: str
    detail: str


class AdminGateway:
    """See the head of this file. ``config`` and ``events`` None: nobody gives them."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        health: Callable[[], Mapping[str, object]],
        config: Callable[[], Mapping[str, object]] | None,
        events: EventsBackend | None,
    ) -> None:
        self._metrics = metrics
        self._health = health
        self._config = config
        self._events = events
        self.readers = 0
        self._table: Sequence[Route] = ()
        self._document: dict[str, object] | None = None

    def routes(self) -> list[Route]:
        """What is answered here."""
        read, opened = Role.READ, Role.OPEN
        after = Parameter("after", "what came after the event of this number; 0 = all that is kept", count(0, MAX_NUMBER))
        follow = Parameter("follow", "false: end when all that there is has been sent", FLAG)
        return [
            Route("GET", "/healthz", opened, "healthz", self.healthz, "Whether the gateway runs", {200: Health}),
            Route("GET", "/metrics", opened, "metrics", self.metrics, "Its metrics, as Prometheus reads them", {200: METRICS}),
            Route("GET", "/admin", read, "index", self.index, "What there is", {200: RouteList}),
            Route("GET", "/admin/openapi.json", read, "openapi", self.openapi, "This listener as OpenAPI 3.1 describes it",
                  {200: dict[str, Any]}),
            Route("GET", "/admin/config", read, "config", self.config, "The settings that hold, without secrets",
                  {200: ConfigShown}),
            Route("GET", "/admin/events", read, "events", self.events, "What happens to engines, as server-sent events",
                  {200: EVENTS}, query=(after, follow)),
        ]  # fmt: skip

    def knows(self, table: Sequence[Route]) -> None:
        """All that is answered, here and elsewhere."""
        self._table = table

    async def healthz(self, call: AdminCall) -> AdminAnswer:
        return AdminAnswer(200, {"status": "ok", **self._health()})

    async def metrics(self, call: AdminCall) -> AdminAnswer:
        page = await self._metrics.page(call.accept, call.accept_encoding)
        return AdminAnswer(200, page.body, dict(page.fields), media_type=page.media_type)

    async def index(self, call: AdminCall) -> AdminAnswer:
        query_of(call)
        shown = [RouteShown(row.method, row.path, row.role.name.lower(), row.summary) for row in self._table]
        return AdminAnswer(200, RouteList(data=shown))

    async def openapi(self, call: AdminCall) -> AdminAnswer:
        query_of(call)
        if self._document is None:
            self._document = await asyncio.to_thread(described_by, self._table)  # (twenty milliseconds)
        return AdminAnswer(200, self._document)

    async def config(self, call: AdminCall) -> AdminAnswer:
        query_of(call)
        if self._config is None:
            raise GatewayError("not_found")
        return AdminAnswer(200, self._config())

    async def events(self, call: AdminCall) -> AdminAnswer:
        query = query_of(call, "after", "follow")
        if self._events is None:
            raise GatewayError("not_found")
        follow = query.get("follow", "true")
        if follow not in ("true", "false"):
            raise GatewayError("invalid_parameter", "follow must be true or false.", param="follow")
        given = query.get("after", "")
        if given and not (given.isascii() and given.isdigit() and len(given) <= 16 and int(given) <= MAX_NUMBER):
            raise GatewayError("invalid_parameter", f"after must be a number from 0 to {MAX_NUMBER}.", param="after")
        last = call.last_event_id
        if last.isascii() and last.isdigit() and len(last) <= 16:
            given = last  # whoever comes again says so in this, his address is as it was
        number = int(given) if given else self._events.last if follow == "true" else 0
        if follow == "true" and self.readers >= MAX_READERS:
            raise GatewayError("rate_limited", f"{MAX_READERS} read events, and no more may at once.", retry_after_s=5.0)
        return AdminAnswer(200, pieces=self._told(self._events, number, follow == "true"), media_type=EVENTS)

    async def _told(self, events: EventsBackend, number: int, follow: bool) -> AsyncGenerator[bytes, None]:
        self.readers += follow
        try:
            yield b": from %d\n\n" % number
            while True:
                found, missed = events.since(number)
                text = bytearray()
                if missed and number:
                    # (With an id: whoever comes again does so from here, and not from a number that was never one.)
                    text += b"id: %d\nevent: missed\ndata: {}\n\n" % (found[0].number - 1 if found else events.last)
                for one in found:
                    shown = EventShown(one.number, round(one.at, 3), one.what, one.engine, one.detail)
                    what = one.what.encode()
                    text += b"id: %d\nevent: %b\ndata: %b\n\n" % (one.number, what, msgspec.json.encode(shown))
                number = events.last
                if text:
                    yield bytes(text)
                if not follow or events.closed:
                    return
                if events.last == number:
                    try:
                        async with asyncio.timeout(QUIET_S):
                            await events.more()
                    except TimeoutError:
                        yield b": quiet\n\n"
        finally:
            self.readers -= follow
