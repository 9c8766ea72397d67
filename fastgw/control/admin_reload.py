"""The admin API's reload: ``POST /admin/reload`` has the gateway read its settings again, as SIGHUP does, and says what came
of it.

    200  {"changed": [...], "restart": [...]}     names of settings
    422  {"error": ..., "problems": [...]}        nothing has changed; the lines that `fastgw check` prints
    503                                           it drains

Must never: take settings from the request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastgw.control.call import AdminAnswer, AdminCall
from fastgw.errors import GatewayError

PATH: Final = "/admin/reload"

Again = Callable[[], Awaitable[tuple[int, Any]]]
"""Reads them: the status and the document of the answer."""


class AdminReload:
    """``again`` None: whoever embeds the gateway gives it its settings himself."""

    def __init__(self, again: Again | None) -> None:
        self._again = again

    def owns(self, path: str) -> bool:
        return path == PATH

    async def answer(self, call: AdminCall) -> AdminAnswer:
        """Raises GatewayError where the call is none that can be answered."""
        call.action = "reload"
        if self._again is None:
            raise GatewayError("not_found", "This gateway was given its settings by a program.")
        if call.method != "POST":
            raise GatewayError("method_not_allowed", allow="POST")
        if await call.read():
            raise GatewayError("bad_request", "Send no body: the settings are read from where they were read at the start.")
        status, document = await self._again()
        return AdminAnswer(status, document)
