"""The admin API's reload: ``POST /admin/reload`` has the gateway read its settings again, as SIGHUP does, and says what came
of it.

    200  {"changed": [...], "restart": [...]}     names of settings
    422  {"error": ..., "problems": [...]}        nothing has changed; the lines that `fastgw check` prints
    503                                           it drains

Must never: take settings from the request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from fastgw.control.call import AdminAnswer, AdminCall
from fastgw.control.routes import Role, Route
from fastgw.errors import GatewayError

Again = Callable[[], Awaitable[tuple[int, Any]]]
"""Reads them: the status and the document of the answer."""


class Reloaded(msgspec.Struct):
    """Names of settings: those that hold from now on, and those that wait for a restart."""

    changed: list[str]
    restart: list[str]


class NotReloaded(msgspec.Struct):
    error: str
    problems: list[str]


class NotNow(msgspec.Struct):
    error: str


class AdminReload:
    """``again`` None: whoever embeds the gateway gives it its settings himself."""

    def __init__(self, again: Again | None) -> None:
        self._again = again

    def routes(self) -> list[Route]:
        """What is answered here."""
        answers = {200: Reloaded, 422: NotReloaded, 503: NotNow}
        summary = "Read the settings again, as SIGHUP does"
        return [Route("POST", "/admin/reload", Role.WRITE, "reload", self.answer, summary, answers)]

    async def answer(self, call: AdminCall) -> AdminAnswer:
        """Raises GatewayError where the call is none that can be answered."""
        if self._again is None:
            raise GatewayError("not_found", "This gateway was given its settings by a program.")
        if await call.read():
            raise GatewayError("bad_request", "Send no body: the settings are read from where they were read at the start.")
        status, document = await self._again()
        return AdminAnswer(status, document)
