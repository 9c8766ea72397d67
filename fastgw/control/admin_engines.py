"""``/admin/engines``: the engines of a gateway as JSON over HTTP, without any HTTP in it.

Owns: the paths below ``/admin/engines``, the shape of an engine in JSON, and which fields of which type a caller may set: those
of an ``[[engines]]`` table. Ranges belong to the configuration, and what happens to an engine to the fleet. Must never: put an
engine's key into an answer. The caller has been found to be the operator before anything here runs: where the gateway sends
requests is his to say, and nobody else's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from fastgw.config.entries import ENGINE_FIELDS
from fastgw.control.call import (
    AdminAnswer,
    AdminCall,
    FieldProblems,
    Fields,
    document_of,
    fields_of,
    query_of,
    refusal,
    struct_of,
)
from fastgw.control.routes import FLAG, Handler, Parameter, Role, Route
from fastgw.errors import KINDS, ErrorKind, GatewayError

MOST_MODELS: Final = 100  # of one engine, in an answer; `models_total` says how many there are
MAX_PROBLEMS: Final = 20  # told in one answer

ENGINE_NOT_FOUND: Final = replace(
    KINDS["not_found"], name="engine_not_found", code="engine_not_found", message="There is no such engine.", advice=""
)
ENGINE_EXISTS: Final = ErrorKind(
    "engine_exists", 409, "invalid_request_error", "engine_exists", "There is such an engine already."
)
ENGINE_OF_RUNNER: Final = ErrorKind(
    "engine_of_runner", 409, "invalid_request_error", "engine_of_runner", "This engine is a runner's."
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
CHANGEABLE: Final[Fields] = {name: FIELDS[name] for name in ("weight", "max_concurrent")}
NewEngine: Final = struct_of("NewEngine", FIELDS, ("url",))
EngineChange: Final = struct_of("EngineChange", CHANGEABLE)


class EngineNotFound(Exception):
    """There is no engine of this name."""


class EngineExists(Exception):
    """It cannot be beside one that is there; the text says why, and what to do."""


class EngineOfRunner(Exception):
    """It cannot be removed: its runner would bring it again at once; the text says what to do."""


class TooManyEngines(Exception):
    """There is no room for one more; the text says what to do."""


class ModelShown(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine has said of a model: how much context fits (0 = it has not), of which model it is an adapter, whether
    it is loaded (null = not said), its other names."""

    name: str
    context_tokens: int
    parent: str
    loaded: bool | None
    aliases: Sequence[str]


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, of the last minute."""

    p50: float
    p95: float
    p99: float


class EngineShown(msgspec.Struct, frozen=True, kw_only=True):
    """An engine as the API shows it. ``origin``: who has named it (config, admin, runner, dns, srv, file). ``health`` is well,
    not_well or unknown; ``facts`` are shown of one engine alone; ``slots`` 0 = no limit; ``leaving``: it is removed when
    nothing is under way there; ``ejected``: it is asked only where no other takes a request, and so for ``rests_s`` more
    seconds, as it has asked itself; ``away``: the tunnel to it has broken, and requests wait for its runner. ``ttft_s``: from
    when it was sent a request to the first token, ``itl_s``: between tokens; null = nothing was streamed."""

    name: str
    url: str
    origin: str
    kind: str
    models: Sequence[str]
    models_total: int
    facts: Sequence[ModelShown]
    served_name: str
    api_key_set: bool
    weight: int
    health: str
    breaker: str
    inflight: int
    slots: int
    connections: int
    draining: bool
    ejected: bool
    rests_s: float
    away: bool
    leaving: bool
    requests_total: int
    failures_total: int
    ejections_total: int
    ttft_s: Percentiles | None
    itl_s: Percentiles | None


class EngineList(msgspec.Struct, kw_only=True):
    data: Sequence[EngineShown]
    object: str = "list"


class EnginesBackend(Protocol):
    """The engines that are there. All run in the loop and wait for nothing; those with a name raise :class:`EngineNotFound`."""

    def engines(self) -> Sequence[EngineShown]: ...

    def show(self, name: str) -> EngineShown: ...

    def add(self, fields: Mapping[str, Any]) -> EngineShown:
        """``fields`` has names of :data:`FIELDS` only, with values of their types. Raises FieldProblems, EngineExists,
        TooManyEngines."""
        ...

    def change(self, name: str, fields: Mapping[str, Any]) -> EngineShown:
        """``fields`` has names of :data:`CHANGEABLE` only, with values of their types. Raises FieldProblems."""
        ...

    def drain(self, name: str) -> EngineShown: ...

    def undrain(self, name: str) -> EngineShown: ...

    def remove(self, name: str, at_once: str) -> EngineShown | None:
        """None = it is gone; else it goes when nothing is under way there. ``at_once``: why it goes now ("" = it waits). Raises
        EngineOfRunner."""
        ...


@contextmanager
def told() -> Iterator[None]:
    """What the backend refuses becomes an error that the caller is told."""
    try:
        yield
    except EngineNotFound as error:
        message = "There is no engine of this name: GET /admin/engines lists those that are there."
        raise refusal(ENGINE_NOT_FOUND, message) from error
    except EngineExists as error:
        raise refusal(ENGINE_EXISTS, str(error)) from error
    except EngineOfRunner as error:
        raise refusal(ENGINE_OF_RUNNER, str(error)) from error
    except TooManyEngines as error:
        raise refusal(TOO_MANY_ENGINES, str(error)) from error
    except FieldProblems as error:
        raise GatewayError("invalid_parameter", "; ".join(error.problems[:MAX_PROBLEMS])) from error


Method = Callable[[AdminCall, str], Awaitable[AdminAnswer]]


class AdminEngines:
    """Answers the calls about engines. ``engines`` is None where nobody manages any."""

    __slots__ = ("_engines",)

    def __init__(self, engines: EnginesBackend | None) -> None:
        self._engines = engines

    def routes(self) -> list[Route]:
        """What is answered here."""
        read, write, do = Role.READ, Role.WRITE, self._guarded
        every, one, shown = "/admin/engines", "/admin/engines/{name}", {200: EngineShown}
        now = Parameter("now", "true: without waiting for what is under way there", FLAG)
        return [
            Route("GET", every, read, "list_engine", do(self.list), "All engines", {200: EngineList}),
            Route("POST", every, write, "add_engine", do(self.add), "An engine more", {201: EngineShown}, body=NewEngine),
            Route("GET", one, read, "show_engine", do(self.show), "An engine", shown),
            Route("PATCH", one, write, "change_engine", do(self.change), "Other values of some of its settings", shown,
                  body=EngineChange),
            Route("DELETE", one, write, "remove_engine", do(self.remove), "Remove an engine, at once or when it is empty",
                  {202: EngineShown, 204: None}, query=(now,)),
            Route("POST", one + "/drain", write, "drain_engine", do(self.drain), "Give it no new requests", shown),
            Route("POST", one + "/undrain", write, "undrain_engine", do(self.undrain), "Give it requests again", shown),
        ]  # fmt: skip

    def _guarded(self, method: Method) -> Handler:
        """``method``, whose errors become the caller's mistake; others are faults."""

        async def answer(call: AdminCall) -> AdminAnswer:
            if self._engines is None:
                raise GatewayError("not_found")
            name = call.names.get("name", "")
            with told():
                if name:
                    call.engine = self._engines.show(name).name  # only what is an engine's name goes into the log
                return await method(call, name)

        return answer

    @property
    def _backend(self) -> EnginesBackend:
        assert self._engines is not None  # _guarded refuses without
        return self._engines

    async def list(self, call: AdminCall, name: str) -> AdminAnswer:
        query_of(call)
        return AdminAnswer(200, EngineList(data=self._backend.engines()))

    async def show(self, call: AdminCall, name: str) -> AdminAnswer:
        query_of(call)
        return AdminAnswer(200, self._backend.show(name))

    async def add(self, call: AdminCall, name: str) -> AdminAnswer:
        query_of(call)
        engine = self._backend.add(fields_of(document_of(await call.read()), FIELDS))
        call.engine = engine.name
        return AdminAnswer(201, engine, {"Location": f"/admin/engines/{quote(engine.name, safe='')}"})

    async def change(self, call: AdminCall, name: str) -> AdminAnswer:
        query_of(call)
        fields = fields_of(document_of(await call.read()), CHANGEABLE)
        if not fields:
            raise FieldProblems(["there is nothing to change"])
        return AdminAnswer(200, self._backend.change(name, fields))

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
