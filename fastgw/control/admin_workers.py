"""``/add_worker``, ``/remove_worker``, ``/list_workers`` and ``/workers``: the engines under the names that SGLang's router and
its successor (smg) give to them, so that scripts which were written for those go on.

Owns: those paths and shapes. A worker is an engine, its id the engine's name (or its URL, as older scripts say it). What these
routers know beside that and a gateway does not (labels, costs, prefill and decode pools) is refused where it would change where
requests go, and passed over where it would not. Must never: answer without an admin key, which those routers do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from fastgw.config.address import parse_engine_url
from fastgw.control.admin_engines import EngineNotFound, EnginesBackend, EngineShown, told
from fastgw.control.call import AdminAnswer, AdminCall, FieldProblems, document_of, query_of
from fastgw.control.routes import Handler, Parameter, Role, Route
from fastgw.errors import GatewayError

TEXT: Final = "text/plain; charset=utf-8"
REGULAR: Final = "regular"
UNKNOWN: Final = "unknown"


class WorkerShown(msgspec.Struct, kw_only=True):
    id: str
    url: str
    model_id: str
    models: Sequence[str]
    priority: int
    cost: float
    worker_type: str
    is_healthy: bool
    load: int
    connection_mode: str
    runtime_type: str
    metadata: dict[str, str]


class WorkerStats(msgspec.Struct):
    prefill_count: int
    decode_count: int
    regular_count: int


class WorkerList(msgspec.Struct):
    workers: Sequence[WorkerShown]
    total: int
    stats: WorkerStats


class WorkerUrls(msgspec.Struct):
    urls: Sequence[str]


class Accepted(msgspec.Struct, omit_defaults=True):
    """``url`` and ``location`` of one that was added."""

    status: str
    worker_id: str
    message: str
    url: str = ""
    location: str = ""


class WorkerSpec(msgspec.Struct):
    """What is taken of a worker; other members are passed over."""

    url: str
    api_key: str | None = None
    models: list[Any] | None = None
    model_id: str | None = None
    worker_type: str | None = None
    runtime_type: str | None = None
    runtime: str | None = None


def _fields(spec: WorkerSpec, kinds: Sequence[str]) -> dict[str, Any]:
    """As an engine's."""
    if spec.worker_type not in (None, REGULAR):
        raise FieldProblems(["worker_type: must be regular: prefill and decode are not told apart here"])
    named = [one.get("id") if isinstance(one, dict) else one for one in spec.models or []]
    models = [*named, *([spec.model_id] if spec.model_id not in (None, UNKNOWN) else [])]
    if not all(isinstance(one, str) for one in models):
        raise FieldProblems(["models: must be a list of names, or of objects with an id"])
    runtime = spec.runtime_type or spec.runtime or ""
    fields: dict[str, Any] = {"url": spec.url, "models": list(dict.fromkeys(models))}
    if spec.api_key:
        fields["api_key"] = spec.api_key
    if runtime in kinds:
        fields["kind"] = runtime
    return fields


class AdminWorkers:
    """Answers those calls. ``engines`` is None where nobody manages any; ``kinds``: names of what an engine may be."""

    __slots__ = ("_engines", "_kinds")

    def __init__(self, engines: EnginesBackend | None, kinds: Sequence[str]) -> None:
        self._engines = engines
        self._kinds = kinds

    def routes(self) -> list[Route]:
        """What is answered here."""
        read, write, do = Role.READ, Role.WRITE, self._guarded
        url = Parameter("url", "the engine's", required=True)
        key = Parameter("api_key", "the key that is sent to it")
        every, one = "/workers", "/workers/{worker_id}"
        leaves = "Drain an engine, and remove it when it is empty"
        return [
            Route("POST", "/add_worker", write, "add_worker", do(self.add_url), "An engine more (SGLang's router)",
                  {200: TEXT}, query=(url, key)),
            Route("POST", "/remove_worker", write, "remove_worker", do(self.remove_url), leaves + " (SGLang's router)",
                  {200: TEXT}, query=(url,)),
            Route("GET", "/list_workers", read, "list_worker_urls", do(self.urls), "The engines' URLs (SGLang's router)",
                  {200: WorkerUrls}),
            Route("GET", every, read, "list_workers", do(self.list), "All engines (smg)", {200: WorkerList}),
            Route("POST", every, write, "create_worker", do(self.create), "An engine more (smg)", {202: Accepted},
                  body=WorkerSpec),
            Route("GET", one, read, "show_worker", do(self.show), "An engine (smg)", {200: WorkerShown}),
            Route("DELETE", one, write, "delete_worker", do(self.delete), leaves + " (smg)", {202: Accepted}),
        ]  # fmt: skip

    def _guarded(self, method: Callable[[AdminCall], Awaitable[AdminAnswer]]) -> Handler:
        async def answer(call: AdminCall) -> AdminAnswer:
            if self._engines is None:
                raise GatewayError("not_found")
            with told():
                return await method(call)

        return answer

    @property
    def _backend(self) -> EnginesBackend:
        assert self._engines is not None  # _guarded refuses without
        return self._engines

    def _find(self, call: AdminCall, said: str) -> list[EngineShown]:
        """The engine of that name, or else all at that URL, however it is spelled: the ranks of one, or its models apart."""
        engines = self._backend.engines()
        found = [one for one in engines if one.name == said]
        if not found:
            try:
                meant = parse_engine_url(said).url
            except ValueError:
                raise EngineNotFound from None
            found = [one for one in engines if one.url == meant]
        if not found:
            raise EngineNotFound
        call.engine = found[0].name
        return found

    def _remove(self, call: AdminCall, said: str) -> EngineShown:
        """Drain what is meant, and remove it when it is empty; the first of them. (One that leaves goes by itself, and its name
        may be another's by now.)"""
        found = self._find(call, said)
        for one in found:
            if not one.leaving:
                self._backend.remove(one.name, "")
        return found[0]

    def _add(self, call: AdminCall, spec: WorkerSpec) -> EngineShown:
        engine = self._backend.add(_fields(spec, self._kinds))
        call.engine = engine.name
        return engine

    async def add_url(self, call: AdminCall) -> AdminAnswer:
        query = query_of(call, "url", "api_key")
        self._add(call, WorkerSpec(query.get("url", ""), query.get("api_key")))
        return AdminAnswer(200, f"Successfully added worker: {query['url']}".encode(), media_type=TEXT)

    async def remove_url(self, call: AdminCall) -> AdminAnswer:
        url = query_of(call, "url").get("url", "")
        self._remove(call, url)
        return AdminAnswer(200, f"Successfully removed worker: {url}".encode(), media_type=TEXT)

    async def urls(self, call: AdminCall) -> AdminAnswer:
        query_of(call)
        return AdminAnswer(200, WorkerUrls(list(dict.fromkeys(one.url for one in self._backend.engines()))))

    async def list(self, call: AdminCall) -> AdminAnswer:
        query_of(call)
        shown = [_shown(one) for one in self._backend.engines()]
        return AdminAnswer(200, WorkerList(shown, len(shown), WorkerStats(0, 0, len(shown))))

    async def create(self, call: AdminCall) -> AdminAnswer:
        query_of(call)
        document = document_of(await call.read())
        try:
            spec = msgspec.convert(document, WorkerSpec)
        except msgspec.ValidationError as error:
            raise FieldProblems([str(error)]) from error
        engine = self._add(call, spec)
        location = f"/workers/{quote(engine.name, safe='')}"
        accepted = Accepted("accepted", engine.name, "Worker addition queued for background processing", engine.url, location)
        return AdminAnswer(202, accepted, {"Location": location})

    async def show(self, call: AdminCall) -> AdminAnswer:
        query_of(call)
        return AdminAnswer(200, _shown(self._find(call, call.names["worker_id"])[0]))

    async def delete(self, call: AdminCall) -> AdminAnswer:
        query_of(call)
        name = self._remove(call, call.names["worker_id"]).name
        return AdminAnswer(202, Accepted("accepted", name, "Worker removal queued for background processing"))


def _shown(engine: EngineShown) -> WorkerShown:
    models = list(engine.models)
    return WorkerShown(
        id=engine.name,
        url=engine.url,
        model_id=models[0] if models else UNKNOWN,
        models=models,
        priority=50,
        cost=1.0,
        worker_type=REGULAR,
        is_healthy=engine.health == "well" and not engine.draining,
        load=engine.inflight,
        connection_mode="http",
        runtime_type=engine.kind,
        metadata={},
    )
