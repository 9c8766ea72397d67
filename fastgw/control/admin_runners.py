"""``/admin/runners``: the runners of a gateway as JSON over HTTP, without any HTTP in it.

Owns: the paths below ``/admin/runners``, the shape of a runner in JSON, and what a caller may have one do. What a runner may do
is the registry's, what becomes of its requests the fleet's. The caller has been found to be the operator before anything here
runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

import msgspec
from msgspec.structs import replace

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
from fastgw.control.routes import Handler, Role, Route
from fastgw.errors import KINDS, ErrorKind, GatewayError

MAX_WAIT_S: Final = 3600.0

RUNNER_NOT_FOUND: Final = replace(
    KINDS["not_found"], name="runner_not_found", code="runner_not_found", message="There is no such runner.", advice=""
)
RUNNER_REFUSED: Final = ErrorKind("runner_refused", 502, "server_error", "runner_refused", "The runner could not do it.")
RUNNER_LOST: Final = ErrorKind(
    "runner_lost", 502, "server_error", "runner_lost", "The runner left before it had answered: what it has done is not known."
)
RUNNER_BUSY: Final = ErrorKind(
    "runner_busy", 409, "invalid_request_error", "runner_busy", "The runner has as many commands under way as it may have."
)
RUNNER_SLOW: Final = ErrorKind(
    "runner_timeout", 504, "server_error", "runner_timeout", "The runner has not answered in time: it may be at it still."
)

FIELDS: Final[Fields] = {"model_id": (str, "a string"), "timeout_s": (float, "a number of seconds")}
RunnerCommand: Final = struct_of("RunnerCommand", FIELDS, ("model_id",))


class RunnerNotFound(Exception):
    """There is no runner of this id."""


class RunnerRefused(Exception):
    """It was asked and would not; the text is its own."""


class RunnerLost(Exception):
    """Its connection ended before it had answered."""


class RunnerBusy(Exception):
    """It cannot be asked now."""


class RunnerShown(msgspec.Struct, frozen=True, kw_only=True):
    """A runner as the API shows it. ``engine`` is what stands for it among ``/admin/engines``; ``connected``: false while it is
    waited for; ``takes_requests``: by what it says of itself and by ``draining``."""

    id: str
    name: str
    machine_type: str
    engine: str
    url: str
    health: str
    connected: bool
    takes_requests: bool
    draining: bool
    inflight: int
    joined_s: float
    silent_s: float
    loaded_models: Sequence[str]
    available_models: Sequence[str]
    model_aliases: Mapping[str, str]
    engines: Sequence[Any]
    capabilities: Sequence[Any]
    metrics: Any


class RunnersBackend(Protocol):
    """The runners that are there; those with an id raise :class:`RunnerNotFound`."""

    def runners(self) -> Sequence[RunnerShown]: ...

    def show(self, id: str) -> RunnerShown: ...

    def drain(self, id: str, drained: bool) -> RunnerShown: ...

    async def command(self, id: str, what: str, model: str, timeout_s: float) -> RunnerShown:
        """Have it ``load`` or ``unload`` a model, or tell its ``status``, and wait until it has; 0.0 = as long as is usual.
        Raises RunnerRefused, RunnerLost, RunnerBusy, TimeoutError."""
        ...


@contextmanager
def told() -> Iterator[None]:
    """What the backend refuses, or a runner, becomes an error that the caller is told."""
    try:
        yield
    except RunnerNotFound as error:
        message = "There is no runner of this id: GET /admin/runners lists those that are there."
        raise refusal(RUNNER_NOT_FOUND, message) from error
    except RunnerRefused as error:
        raise refusal(RUNNER_REFUSED, f"The runner could not do it: {error}") from error
    except RunnerLost as error:
        raise refusal(RUNNER_LOST) from error
    except RunnerBusy as error:
        raise refusal(RUNNER_BUSY) from error
    except TimeoutError as error:
        raise refusal(RUNNER_SLOW) from error
    except FieldProblems as error:
        raise GatewayError("invalid_parameter", "; ".join(error.problems[:20])) from error


class RunnerList(msgspec.Struct, kw_only=True):
    data: Sequence[RunnerShown]
    object: str = "list"


Method = Callable[[AdminCall, str], Awaitable[AdminAnswer]]


class AdminRunners:
    """Answers the calls about runners. ``backend`` gives None where no runners can dial in."""

    __slots__ = ("_backend",)

    def __init__(self, backend: Callable[[], RunnersBackend | None]) -> None:
        self._backend = backend

    def routes(self) -> list[Route]:
        """What is answered here."""
        read, write, do = Role.READ, Role.WRITE, self._guarded
        every, one, shown = "/admin/runners", "/admin/runners/{id}", {200: RunnerShown}
        body = RunnerCommand
        return [
            Route("GET", every, read, "list_runner", do(self.list), "All runners", {200: RunnerList}),
            Route("GET", "/runners", read, "list_runners", do(self.list), "All runners, at its old place", {200: RunnerList}),
            Route("GET", one, read, "show_runner", do(self.show), "A runner", shown),
            Route("POST", one + "/load", write, "load_runner", do(self.load), "Load a model there, and wait", shown, body=body),
            Route("POST", one + "/unload", write, "unload_runner", do(self.unload), "Unload a model there, and wait", shown,
                  body=body),
            Route("POST", one + "/status", write, "status_runner", do(self.status), "Ask it how it is, and wait", shown),
            Route("POST", one + "/drain", write, "drain_runner", do(self.drain), "Give it no new requests", shown),
            Route("POST", one + "/undrain", write, "undrain_runner", do(self.undrain), "Give it requests again", shown),
        ]  # fmt: skip

    def _guarded(self, method: Method) -> Handler:
        """``method``, whose errors become the caller's mistake, or the runner's; others are faults."""

        async def answer(call: AdminCall) -> AdminAnswer:
            if self._backend() is None:
                raise GatewayError("not_found", "No runners can dial in: RUNNER_AUTH_TOKEN is not set.")
            id = call.names.get("id", "")
            with told():
                if id:
                    call.runner = self._runners().show(id).id  # only what is a runner's id goes into the log
                return await method(call, id)

        return answer

    def _runners(self) -> RunnersBackend:
        backend = self._backend()
        if backend is None:
            raise RunnerNotFound  # (closed meanwhile)
        return backend

    async def list(self, call: AdminCall, id: str) -> AdminAnswer:
        query_of(call)
        return AdminAnswer(200, {"object": "list", "data": self._runners().runners()})

    async def show(self, call: AdminCall, id: str) -> AdminAnswer:
        query_of(call)
        return AdminAnswer(200, self._runners().show(id))

    async def drain(self, call: AdminCall, id: str) -> AdminAnswer:
        query_of(call)
        return AdminAnswer(200, self._runners().drain(id, True))

    async def undrain(self, call: AdminCall, id: str) -> AdminAnswer:
        query_of(call)
        return AdminAnswer(200, self._runners().drain(id, False))

    async def load(self, call: AdminCall, id: str) -> AdminAnswer:
        return await self._command(call, id, "load")

    async def unload(self, call: AdminCall, id: str) -> AdminAnswer:
        return await self._command(call, id, "unload")

    async def status(self, call: AdminCall, id: str) -> AdminAnswer:
        query_of(call)
        return AdminAnswer(200, await self._runners().command(id, "status", "", 0.0))

    async def _command(self, call: AdminCall, id: str, what: str) -> AdminAnswer:
        query_of(call)
        fields = fields_of(document_of(await call.read()), FIELDS)
        model, timeout_s = fields.get("model_id", ""), fields.get("timeout_s", 0.0)
        if not 0 < len(model) <= 200:
            raise FieldProblems(["model_id: must be there, with 200 characters at most"])
        if not 0.0 <= timeout_s <= MAX_WAIT_S:
            raise FieldProblems([f"timeout_s: must be {MAX_WAIT_S:g} or less"])
        return AdminAnswer(200, await self._runners().command(id, what, model, timeout_s))
