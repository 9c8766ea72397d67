"""The engine that an agent stands beside: what it is, how it is, what it serves, and what it is had to do.

Owns: every question to it, each bounded in time and in bytes. Must never: raise for what an engine answers, or send it anything
that is not asked for by a command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import aiohttp
import msgspec
from msgspec.structs import replace

from fastgw.agent.loading import ADAPTERS, LOADED, ROUTES, VERSION, CannotLoad, Step, load, routed, unload
from fastgw.config.names import EngineKind
from fastgw.protocol.gauges import Gauges, read
from fastgw.protocol.openai import parse_models
from fastgw.protocol.runner_words import MAX_CONTEXTS, MAX_NAMES, EngineStatus, is_name
from fastgw.upstream.kinds.kind import Kind
from fastgw.upstream.kinds.registry import ASKED, GAUGES, is_of, kind_of, known_by
from fastgw.upstream.models import in_list

ANSWER_S: Final = 5.0
MAX_ANSWER_BYTES: Final = 1 << 20
ILL_AFTER: Final = 2
"""Looks in a row that fail: one alone may have come while it was busy. (Where a request was not answered, one is enough.)"""
LOOK_S: Final = 0.5  # at a model that is being loaded
LOAD_S: Final = 3600.0  # a model of a hundred gigabytes is pulled in less


class CannotRead(Exception):
    """A file that holds a secret; the text says which, and why."""


class Unanswered(Exception):
    """The engine does not answer, or not so; the text says how."""


class LocalEngine:
    """See the head of this file. ``url``: without a slash at the end; ``key`` reads what it asks for ("" = nothing), at each
    look; where that raises CannotRead, what was read last holds."""

    def __init__(
        self, http: aiohttp.ClientSession, url: str, kind: EngineKind, key: Callable[[], str], adapters: Mapping[str, str],
        pull: bool,
    ) -> None:
        self._http = http
        self._url = url
        self._read = key
        self.key = key()
        self._adapters = dict(adapters)
        self._pull = pull
        self.kind: Kind = kind_of(kind)
        self._named = kind  # by whoever has started us
        self._asks_kind = kind == "auto"
        self._failed = 0  # looks in a row
        self._absent: set[str] = set()  # paths that it does not have: each is a line of its log, and not asked for again
        self._health_path = ""
        self.status = EngineStatus(engine_type=self.kind.name, is_healthy=False)
        self.gauges: Gauges | None = None
        self.aliases: dict[str, str] = {}  # other names that it has for what it lists
        self._fits: dict[str, int] = {}  # how much context, of some of its models
        self.left_out: tuple[str, ...] = ()  # what it lists, and no gateway takes for a name

    async def look(self, doubted: bool = False) -> bool:
        """See how it is now: :attr:`status`, :attr:`gauges`, :attr:`aliases`, and what it is where nobody has said so; whether
        it answered. ``doubted``: requests have found that it is not there, which counts as a look that failed."""
        with suppress(CannotRead):
            self.key = self._read()
        try:
            await self._healthy()
            loaded, available = await self._models()
        except Unanswered as error:
            self._did_not(str(error)[:200], 1 if doubted else ILL_AFTER)
            return False
        self._failed = 0
        self.left_out = tuple([name for name in (*loaded, *available) if not is_name(name)])
        loaded, available = [[name for name in some if is_name(name)] for some in (loaded, available)]
        loaded_names = loaded[:MAX_NAMES]
        others = [name for name in dict.fromkeys([*available, *self._not_loaded(loaded)]) if name not in set(loaded)]
        self.status = EngineStatus(
            engine_type=self.kind.name,
            is_healthy=True,
            loaded_models=loaded_names,
            available_models=others[: MAX_NAMES - len(loaded_names)],
            batch_size=self.gauges.running if self.gauges is not None else None,
            context_tokens={name: self._fits[name] for name in [*loaded_names, *others] if name in self._fits},
        )
        await self._measure()
        return True

    def _did_not(self, why: str, ill_after: int) -> None:
        """A look has failed. What it has is believed to be there still: whoever asks for that is told to come again, not that
        there is no such model."""
        self._failed += 1
        self._health_path = ""
        self.gauges = None
        if self.status.is_healthy and self._failed < ill_after:
            return
        self._absent.clear()  # it may be another one when it is back
        if self._named == "auto":
            self.kind = kind_of("auto")
            self._asks_kind = True
        self.status = replace(self.status, engine_type=self.kind.name, is_healthy=False, error=why, batch_size=None)

    def _not_loaded(self, loaded: list[str]) -> list[str]:
        """Adapters that it could have."""
        return [name for name in self._adapters if name not in loaded] if self.kind in ADAPTERS else []

    async def _healthy(self) -> None:
        paths = [self._health_path.encode()] if self._health_path else self.kind.probe_paths
        for path in paths:
            status, _ = await self._get(path.decode())
            if 200 <= status < 300:
                self._health_path = path.decode()
                return
            if status >= 500 and status != 501:
                break  # it knows this path, and says that it is not well
        raise Unanswered(f"{path.decode()} answered {status}")

    async def _models(self) -> tuple[list[str], list[str]]:
        """(those in memory, others that it could have)."""
        if self._asks_kind:
            await self._learn_kind()
        names = self.kind.models_path.decode()
        status, body = (404, b"") if names in self._absent else await self._get(names)
        if status == 404:
            self._absent.add(names)
        listed = parse_models(body) if status == 200 else []
        facts = in_list(body, listed, self.kind.also)
        path, reader = self.kind.more
        more = await self._if_there(path.decode()) if reader is not None else None
        if reader is not None and (more is not None or self.kind in LOADED):
            facts = reader(more or b"", facts)
        if status != 200 and not facts:  # (some have no list, and say at another path what they serve)
            raise Unanswered(f"{names} answered {status}")
        listed = list(facts)
        loaded = listed
        if self.kind in LOADED:
            running = more if path.decode() == LOADED[self.kind] else await self._if_there(LOADED[self.kind])
            loaded = parse_models(running) if running is not None else []
        fits = [(name, one.context_tokens) for name, one in facts.items() if one.context_tokens and is_name(name)]
        self._fits = dict(fits[:MAX_CONTEXTS])
        others = [(alias, name) for name, one in facts.items() for alias in one.aliases if alias not in facts]
        self.aliases = {alias: name for alias, name in others if is_name(alias) and is_name(name)}
        if self.kind in LOADED:
            return loaded, listed
        if self.kind in ROUTES:
            how = await self._routed()
            if how is not None:
                return [name for name, is_ in how.items() if is_ == "loaded"], list(how)
        return listed, []

    async def _learn_kind(self) -> None:
        _, body = await self._get("/v1/models")
        found = known_by(self.kind, body)
        if found is self.kind:
            for path, kind in VERSION.items():
                if b'"version"' in (await self._if_there(path) or b""):
                    found = kind
        for kind in ASKED if found is self.kind else ():
            page = await self._if_there(kind.asked[0].decode())
            if page is not None and is_of(kind, page):
                found = kind
                break
        if found is not self.kind:
            self.kind = found
            self._asks_kind = False
            self._health_path = ""

    async def _routed(self) -> dict[str, str] | None:
        body = await self._if_there(ROUTES[self.kind])
        return routed(body) if body is not None else None

    async def _measure(self) -> None:
        try:
            body = await self._if_there("/metrics")
        except Unanswered:
            body = None
        self.gauges = read(self.kind.gauges, body, GAUGES) if body is not None else None

    # --- commands
    async def load(self, model: str) -> None:
        """Raises :class:`CannotLoad`."""
        model = self.aliases.get(model, model)
        have = frozenset([*self.status.loaded_models, *self.status.available_models])
        await self._do(load(self.kind, model, have, self._adapters, self._pull), model)

    async def unload(self, model: str) -> None:
        """Raises :class:`CannotLoad`."""
        model = self.aliases.get(model, model)
        await self._do(unload(self.kind, model, self._adapters), model)

    async def _do(self, steps: list[Step], model: str) -> None:
        try:
            for path, document, until in steps:
                status, body = await self._ask("POST", path, LOAD_S, document)
                if not 200 <= status < 300:
                    raise CannotLoad(f"{path} answered {status}: {body[:200].decode('utf-8', 'replace')}")
                if until:
                    await self._wait_until(model, until)
        except Unanswered as error:
            raise CannotLoad(str(error)) from None

    async def _wait_until(self, model: str, wanted: str) -> None:
        async with asyncio.timeout(LOAD_S):
            while True:
                is_ = (await self._routed() or {}).get(model, "")
                if is_ == wanted:
                    return
                if is_ == "failed":
                    raise CannotLoad("The engine has failed to load it: its log says why.")
                await asyncio.sleep(LOOK_S)

    # --- questions
    async def _if_there(self, path: str) -> bytes | None:
        """What it says at a path that it need not have."""
        if path in self._absent:
            return None
        status, body = await self._get(path)
        if status == 404:
            self._absent.add(path)
        return body if status == 200 else None

    async def _get(self, path: str) -> tuple[int, bytes]:
        return await self._ask("GET", path, ANSWER_S)

    async def _ask(self, method: str, path: str, timeout_s: float, document: Any = None) -> tuple[int, bytes]:
        data = None if document is None else msgspec.json.encode(document)
        fields = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        if data is not None:
            fields["Content-Type"] = "application/json"
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._http.request(method, self._url + path, data=data, headers=fields, allow_redirects=False) as answer,
            ):
                body = bytearray()
                async for piece in answer.content.iter_any():
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise Unanswered(f"{path} answers more than {MAX_ANSWER_BYTES} bytes")
                return answer.status, bytes(body)
        except TimeoutError:
            raise Unanswered(f"{path}: no answer in {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unanswered(f"{path}: {type(error).__name__}") from None
