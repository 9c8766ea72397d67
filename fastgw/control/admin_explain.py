"""``GET /admin/explain?model=``: which engine a request would get now, and why.

Owns: what may be said of that request (:class:`Asked`), and its bounds. Must never: change anything by being asked, or
show a key.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec

from fastgw.control.call import AdminAnswer, AdminCall, query_of
from fastgw.control.routes import Parameter, Role, Route, count
from fastgw.errors import GatewayError

PATH: Final = "/admin/explain"
MOST_CHARS: Final = 256  # of a name
MOST_PROMPT_CHARS: Final = 4096
MOST_TOKENS: Final = 1 << 30
NAME: Final = {"type": "string", "minLength": 1, "maxLength": MOST_CHARS}
PROMPT: Final = {"type": "string", "maxLength": MOST_PROMPT_CHARS}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The request that is asked about. "" = it does not say."""

    model: str
    key_id: str = ""
    tenant: str = ""
    request_id: str = ""
    policy: str = ""
    needs: str = ""
    session: str = ""
    address: str = ""
    prompt: str = ""
    max_tokens: int = 0


QUERY: Final = (
    Parameter("model", "the name that a client would say", NAME, True),
    Parameter("key_id", "whose request it would be; anybody's when left out", NAME),
    Parameter("tenant", "whose request it would be, where no key is named", NAME),
    Parameter("request_id", "with which id: shares are drawn by it where they are not by the key", NAME),
    Parameter("policy", "which policy it would ask for, by policy_header", NAME),
    Parameter("needs", "what it would say that it needs, by needs_header: words separated by commas", NAME),
    Parameter("session", "what would tell its session, wherever session_sources and hash_sources look for a text", NAME),
    Parameter("address", "from where it would come: sessions and shares may be told by that", NAME),
    Parameter("prompt", "what its user would say, in one message: policies look at its length, or for who has read it", PROMPT),
    Parameter("max_tokens", "how long an answer it would allow: it needs that much context", count(1, MOST_TOKENS)),
)
_NAMES: Final = tuple(one.name for one in QUERY)


class ExplainBackend(Protocol):
    """Who knows. Raises KeyError where there is no such key, GatewayError where no request could say that here."""

    def explain(self, asked: Asked) -> Any: ...


class AdminExplain:
    """Answers that path. ``backend`` None: nobody knows."""

    def __init__(self, backend: ExplainBackend | None) -> None:
        self._backend = backend

    def routes(self) -> list[Route]:
        """What is answered here."""
        summary = "Which engine a request would get now, and why"
        return [Route("GET", PATH, Role.READ, "explain", self.answer, summary, {200: dict[str, Any]}, query=QUERY)]

    async def answer(self, call: AdminCall) -> AdminAnswer:
        """Raises GatewayError where the call is none that can be answered."""
        if self._backend is None:
            raise GatewayError("not_found")
        given = query_of(call, *_NAMES)
        if not given.get("model"):
            raise GatewayError("invalid_parameter", "Say which model: /admin/explain?model=NAME.", param="model")
        for name, value in given.items():
            most = MOST_PROMPT_CHARS if name == "prompt" else MOST_CHARS
            if len(value) > most:
                raise GatewayError("invalid_parameter", f"{name} has more than {most} characters.", param=name)
            if name not in ("model", "prompt") and not value.isprintable():
                raise GatewayError("invalid_parameter", f"{name} has control characters.", param=name)
        tokens = given.pop("max_tokens", "0")
        if not (tokens.isascii() and tokens.isdigit() and len(tokens) <= 10 and int(tokens) <= MOST_TOKENS):
            message = f"max_tokens must be a number from 1 to {MOST_TOKENS}."
            raise GatewayError("invalid_parameter", message, param="max_tokens")
        if "key_id" in given and "tenant" in given:
            raise GatewayError("invalid_parameter", "Say key_id or tenant: a key has its tenant.", param="tenant")
        try:
            return AdminAnswer(200, self._backend.explain(Asked(**given, max_tokens=int(tokens))))
        except KeyError:
            raise GatewayError("invalid_parameter", "There is no key of this id.", param="key_id") from None
