"""``/admin/engines``: the engines of a gateway as JSON over HTTP, without any HTTP in it.

Owns: the paths below ``/admin/engines``, the shape of an engine in JSON, and which fields of which type a caller may set: those
of an ``[[engines]]`` table. Ranges belong to the configuration, and what happens to an engine to the fleet. Must never: put an
engine's key into an answer. The caller has been found to be the operator before anything here runs: where the gateway sends
requests is his to say, and nobody else's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import quote, unquote

import msgspec
from msgspec.structs import replace

from fastgw.config.entries import ENGINE_FIELDS
from fastgw.control.call import AdminAnswer, AdminCall, FieldProblems, Fields, document_of, fields_of, query_of, refusal
from fastgw.errors import KINDS, ErrorKind, GatewayError

MOST_MODELS: Final = 100  # of one engine, in an answer; `models_total` says how many there are
MAX_PROBLEMS: Final = 20  # told in one answer

ENGINE_NOT_FOUND: Final = replace(
    KINDS["not_found"], name="engine_not_found", code="engine_not_found", message="There is no such engine.", advice=""
)
ENGINE_EXISTS: Final = ErrorKind(
    "engine_exists", 409, "invalid_request_error", "engine_exists", "There is such an engine already."
)
TOO_MANY_ENGINES: Final = ErrorKind(
    "too_many_engines", 409, "invalid_request_error", "too_many_engines", "There are as many engines as there may be."
)

_TYPES: Final[Fields] = {
    "text": (str, "a string"),
    "choice": (str, "a string"),
    "list": (list[str], "a list of strings"),
    "int": (int, "a whole number"),
    "auto_bool": (bool, "true or false"),
}
FIELDS: Final[Fields] = {row.name: _TYPES[row.kind] for row in ENGINE_FIELDS}


class EngineNotFound(Exception):
    """There is no engine of this name."""


class EngineExists(Exception):
    """It cannot be beside one that is there; the text says why, and what to do."""


class TooManyEngines(Exception):
    """There is no room for one more; the text says what to do."""


class EngineShown(msgspec.Struct, frozen=True, kw_only=True):
    """An engine as the API shows it. ``health`` is well, not_well or unknown; ``slots`` 0 = no limit; ``leaving``: it is
    removed when nothing is under way there."""

    name: str
    url: str
    kind: str
    models: Sequence[str]
    models_total: int
    served_name: str
    api_key_set: bool
    weight: int
    health: str
    breaker: str
    inflight: int
    slots: int
    connections: int
    draining: bool
    leaving: bool
    requests_total: int
    failures_total: int


class EnginesBackend(Protocol):
    """The engines that are there. All run in the loop and wait for nothing; those with a name raise :class:`EngineNotFound`."""

    def engines(self) -> Sequence[EngineShown]: ...

    def show(self, name: str) -> EngineShown: ...

    def add(self, fields: Mapping[str, Any]) -> EngineShown:
        """``fields`` has names of :data:`FIELDS` only, with values of their types. Raises FieldProblems, EngineExists,
        TooManyEngines."""
        ...

    def drain(self, name: str) -> EngineShown: ...

    def undrain(self, name: str) -> EngineShown: ...

    def remove(self, name: str, at_once: str) -> EngineShown | None:
        """None = it is gone; else it goes when nothing is under way there. ``at_once``: why it goes now ("" = it waits)."""
        ...


Method = Callable[["AdminEngines", AdminCall, str], Awaitable[AdminAnswer]]


class AdminEngines:
    """Answers the calls below ``/admin/engines``. ``engines`` is None where nobody manages any."""

    __slots__ = ("_engines",)

    def __init__(self, engines: EnginesBackend | None) -> None:
        self._engines = engines

    @staticmethod
    def owns(path: str) -> bool:
        """Whether a call of this path is answered here."""
        return path == "/admin/engines" or path.startswith("/admin/engines/")

    async def answer(self, call: AdminCall) -> AdminAnswer:
        """Raises GatewayError for all that is the caller's mistake; other errors are faults."""
        methods, name = self._methods(call)
        method = methods.get("GET" if call.method == "HEAD" else call.method)
        if method is None:
            allowed = [*methods, *(["HEAD"] if "GET" in methods else [])]
            raise GatewayError("method_not_allowed", allow=", ".join(sorted(allowed)))
        call.action = f"{method.__name__}_engine"
        try:
            if name:
                call.engine = self._backend.show(name).name  # only what is an engine's name goes into the log
            return await method(self, call, name)
        except EngineNotFound as error:
            message = "There is no engine of this name: GET /admin/engines lists those that are there."
            raise refusal(ENGINE_NOT_FOUND, message) from error
        except EngineExists as error:
            raise refusal(ENGINE_EXISTS, str(error)) from error
        except TooManyEngines as error:
            raise refusal(TOO_MANY_ENGINES, str(error)) from error
        except FieldProblems as error:
            raise GatewayError("invalid_parameter", "; ".join(error.problems[:MAX_PROBLEMS])) from error

    def _methods(self, call: AdminCall) -> tuple[dict[str, Method], str]:
        """What can be done at this path, and the engine that it names. (A name may hold a slash, written %2F.)"""
        if self._engines is None:
            raise GatewayError("not_found")
        match [unquote(part) for part in call.path.split("/")[3:]]:  # after "/admin/engines"
            case []:
                return {"GET": AdminEngines.list, "POST": AdminEngines.add}, ""
            case [name] if name:
                return {"GET": AdminEngines.show, "DELETE": AdminEngines.remove}, name
            case [name, "drain"] if name:
                return {"POST": AdminEngines.drain}, name
            case [name, "undrain"] if name:
                return {"POST": AdminEngines.undrain}, name
            case _:
                raise GatewayError("not_found")

    @property
    def _backend(self) -> EnginesBackend:
        assert self._engines is not None  # _methods refuses without
        return self._engines

    async def list(self, call: AdminCall, name: str) -> AdminAnswer:
        query_of(call)
        return AdminAnswer(200, {"object": "list", "data": self._backend.engines()})

    async def show(self, call: AdminCall, name: str) -> AdminAnswer:
        query_of(call)
        return AdminAnswer(200, self._backend.show(name))

    async def add(self, call: AdminCall, name: str) -> AdminAnswer:
        query_of(call)
        engine = self._backend.add(fields_of(document_of(await call.read()), FIELDS))
        call.engine = engine.name
        return AdminAnswer(201, engine, {"Location": f"/admin/engines/{quote(engine.name, safe='')}"})

    async def drain(self, call: AdminCall, name: str) -> AdminAnswer:
        query_of(call)
        return AdminAnswer(200, self._backend.drain(name))

    async def undrain(self, call: AdminCall, name: str) -> AdminAnswer:
        query_of(call)
        return AdminAnswer(200, self._backend.undrain(name))

    async def remove(self, call: AdminCall, name: str) -> AdminAnswer:
        """204 where it is gone, 202 where it goes when its last request has ended."""
        now = query_of(call, "now").get("now", "false")
        if now not in ("true", "false"):
            raise GatewayError("invalid_parameter", "now must be true or false.", param="now")
        left = self._backend.remove(name, f"asked for by {call.actor}" if now == "true" else "")
        return AdminAnswer(202, left) if left is not None else AdminAnswer(204)
