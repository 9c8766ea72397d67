"""``GET /admin/explain?model=``: which engine a request would get now, and why.

    model       the name that a client would say
    key_id      whose request it would be; anybody's when left out
    request_id  with which id (`x-request-id`): shares are drawn by it where they are not by the key

Must never: change anything by being asked, or show a key.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from fastgw.control.call import AdminAnswer, AdminCall, query_of
from fastgw.control.routes import Parameter, Role, Route
from fastgw.errors import GatewayError

PATH: Final = "/admin/explain"
MOST_CHARS: Final = 256  # of a name
NAME: Final = {"type": "string", "minLength": 1, "maxLength": MOST_CHARS}


class ExplainBackend(Protocol):
    """Who knows. Raises KeyError where there is no such key."""

    def explain(self, model: str, key_id: str, request_id: str) -> Any: ...


class AdminExplain:
    """Answers that path. ``backend`` None: nobody knows."""

    def __init__(self, backend: ExplainBackend | None) -> None:
        self._backend = backend

    def routes(self) -> list[Route]:
        """What is answered here."""
        query = (
            Parameter("model", "the name that a client would say", NAME, True),
            Parameter("key_id", "whose request it would be; anybody's when left out", NAME),
            Parameter("request_id", "with which id: shares are drawn by it where they are not by the key", NAME),
        )
        summary = "Which engine a request would get now, and why"
        return [Route("GET", PATH, Role.READ, "explain", self.answer, summary, {200: dict[str, Any]}, query=query)]

    async def answer(self, call: AdminCall) -> AdminAnswer:
        """Raises GatewayError where the call is none that can be answered."""
        if self._backend is None:
            raise GatewayError("not_found")
        asked = query_of(call, "model", "key_id", "request_id")
        model = asked.get("model", "")
        if not model:
            raise GatewayError("invalid_parameter", "Say which model: /admin/explain?model=NAME.", param="model")
        for name, value in asked.items():
            if len(value) > MOST_CHARS:
                raise GatewayError("invalid_parameter", f"{name} has more than {MOST_CHARS} characters.", param=name)
        try:
            return AdminAnswer(200, self._backend.explain(model, asked.get("key_id", ""), asked.get("request_id", "")))
        except KeyError:
            raise GatewayError("invalid_parameter", "There is no key of this id.", param="key_id") from None
