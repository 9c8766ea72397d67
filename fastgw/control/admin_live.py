"""``/admin/live``: what the gateway does now, once a second, as server-sent events to all who watch.

Owns: the beat, and the bounds on who watches. A look is made once for all; none is made while nobody watches. Must never: keep
anything for a watcher who does not take it: what he has missed he has missed, and he goes on with what is now.

    event: past     what is kept of the last minutes      once, to who comes
    event: errors   what has gone wrong since             when something has
    event: now      figures, engines, models, runners, GPUs
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from fastgw.control.call import AdminAnswer, AdminCall, query_of
from fastgw.control.routes import Role, Route
from fastgw.errors import GatewayError

PATH: Final = "/admin/live"
EVENTS: Final = "text/event-stream"
MAX_WATCHERS: Final = 16
EVERY_S: Final = 1.0
MOST_RUNNERS: Final = 100


class LiveBackend(Protocol):
    """Who knows. Everything runs in the loop, and is quick."""

    def past(self) -> Mapping[str, object]: ...

    def look(self) -> Any:
        """Called once a second, while somebody watches."""
        ...

    @property
    def last_error(self) -> int:
        """The number of the latest."""
        ...

    def errors(self, number: int) -> Sequence[Any]:
        """What has gone wrong after that number."""
        ...

    def times(self, engine: str) -> tuple[Any, Any]:
        """How long the engine of that name takes to its first token, and between tokens."""
        ...


class RunnerSeen(Protocol):
    """What is told of a runner (``admin_runners.RunnerShown``)."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def engine(self) -> str: ...
    @property
    def health(self) -> str: ...
    @property
    def connected(self) -> bool: ...
    @property
    def inflight(self) -> int: ...
    @property
    def silent_s(self) -> float: ...


_OF_RUNNER: Final = ("id", "name", "engine", "health", "connected", "inflight", "silent_s")


def _shown(one: RunnerSeen, ttft: Any, itl: Any) -> dict[str, Any]:
    return {**{name: getattr(one, name) for name in _OF_RUNNER}, "ttft": ttft, "itl": itl}


def event(name: str, document: object) -> bytes:
    """As EventSource reads it (WHATWG HTML §9.2)."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(document))


def _none_read() -> None:
    """Nobody reads GPUs."""


class AdminLive:
    """See the head of this file. ``live`` None: nobody knows. ``runners``: those that are there; ``gpus``: the cards of this
    machine, and ``driver`` how it is with their driver; None = nobody reads them."""

    def __init__(
        self,
        live: LiveBackend | None,
        runners: Callable[[], Sequence[RunnerSeen]] = tuple,
        gpus: Callable[[], Sequence[Any] | None] = _none_read,
        driver: Callable[[], Any] = _none_read,
    ) -> None:
        self._live = live
        self._runners = runners
        self._gpus = gpus
        self._driver = driver
        self._next: asyncio.Future[bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._latest = b""  # who comes between two looks does not wait
        self._closed = False
        self.watchers = 0

    def routes(self) -> list[Route]:
        """What is answered here."""
        summary = "What the gateway does now, once a second, as server-sent events"
        return [Route("GET", PATH, Role.READ, "live", self.watch, summary, {200: EVENTS})]

    async def watch(self, call: AdminCall) -> AdminAnswer:
        query_of(call)
        if self._live is None or self._closed:
            raise GatewayError("not_found")
        if self.watchers >= MAX_WATCHERS:
            raise GatewayError("rate_limited", f"{MAX_WATCHERS} watch, and no more may at once.", retry_after_s=5.0)
        return AdminAnswer(200, pieces=self._told(self._live), media_type=EVENTS)

    def close(self) -> None:
        """Nobody is told more."""
        self._closed = True
        self._rest()

    async def _told(self, live: LiveBackend) -> AsyncGenerator[bytes, None]:
        self.watchers += 1
        try:
            yield event("past", live.past()) + self._latest
            number = -1
            while not self._closed:
                if number != live.last_error:
                    errors, number = live.errors(number), live.last_error
                    yield event("errors", errors)
                # (Not awaited itself: who leaves would take it from the others.)
                told = await asyncio.shield(self._beat(live))
                if told:
                    yield told
        finally:
            self.watchers -= 1
            if not self.watchers:
                self._rest()

    def _beat(self, live: LiveBackend) -> asyncio.Future[bytes]:
        """The look that is made next."""
        if self._next is None:
            loop = asyncio.get_running_loop()
            self._next = loop.create_future()
            self._due = max(self._due + EVERY_S, loop.time()) if self._timer is not None else loop.time()
            self._timer = loop.call_at(self._due, self._look, live)
        return self._next

    def _look(self, live: LiveBackend) -> None:
        """All who wait get it; where it cannot be made they get to know, and the log with them."""
        made, self._next = self._next, None
        assert made is not None
        try:
            runners = list(self._runners())
            now = live.look()
            shown = [_shown(one, *live.times(one.engine)) for one in runners[:MOST_RUNNERS]]
            told = {"now": now, "runners": shown, "runners_total": len(runners), "gpus": self._gpus()}
            told["gpu_driver"] = self._driver()
            self._latest = event("now", told)
            made.set_result(self._latest)
        except Exception as error:
            made.set_exception(error)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._latest = b""
        made, self._next = self._next, None
        if made is not None and not made.done():
            made.set_result(b"")
