"""Engines with models, versions and tenants, and keys of tenants: what tests of deployments are written in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from fastgw import EngineConfig, RouteConfig
from fastgw.limits.key import KeyRecord
from fastgw.upstream.fleet import deploy
from fastgw.upstream.table import UpstreamTable
from tests.support.answers import RawResponse
from tests.support.byhand.engine import Play
from tests.support.conversation import Conversation, answering, conversation
from tests.support.scripts import ok

fine = answering(ok())


def key_of(tenant: str) -> str:
    return f"sk-of-{tenant or 'nobody'}-0123456789"


def tenant_key(tenant: str, *models: str) -> KeyRecord:
    key = key_of(tenant)
    return KeyRecord(id=f"key-of-{tenant}", digest=sha256(key.encode()).digest(), tenant=tenant, models=models)


@contextmanager
def deployed(
    engines: dict[str, dict[str, Any]],
    *routes: RouteConfig,
    plays: dict[str, Play] | None = None,
    keys: tuple[KeyRecord, ...] = (),
    **settings: Any,
) -> Iterator[Deployed]:
    """Engines by name, with their settings; each answers well but for ``plays``."""
    configs = [
        EngineConfig(url=f"http://127.0.1.{at}:9", warm_connections=0, name=name, **fields)
        for at, (name, fields) in enumerate(engines.items(), 1)
    ]
    settings = {"retry_fresh": False, "cb_failure_threshold": 0, "routes": routes, **settings}
    with conversation(configs, *[(plays or {}).get(name, fine) for name in engines], **settings) as talk:
        talk.core.accounts.apply(keys, 0, 0.0)
        yield Deployed(talk)


class Deployed:
    """``talk``, asked by names of engines."""

    def __init__(self, talk: Conversation) -> None:
        self.talk = talk
        self.engines = {pool.engine.name: pool for pool in talk.engines}

    def ask(self, data: bytes, ip: str = "127.0.0.1") -> RawResponse:
        return self.talk.ask(data, ip)

    def goes_to(self, data: bytes, ip: str = "127.0.0.1") -> str:
        """Which engine answers it, and nobody else is asked."""
        before = dict(zip(self.engines, self.talk.asked, strict=True))
        answer = self.ask(data, ip)
        assert answer.status == 200, answer.body
        after = dict(zip(self.engines, self.talk.asked, strict=True))
        [name] = [name for name, count in after.items() if count != before[name]]
        return name

    @property
    def asked(self) -> dict[str, int]:
        return dict(zip(self.engines, self.talk.asked, strict=True))

    def sent(self, name: str) -> dict[str, Any]:
        """The last request that an engine has got."""
        found: dict[str, Any] = self.engines[name].last.json()
        return found

    def learn(self, *gone: str) -> None:
        """What engines say of themselves is others now, and some have ``gone``: there is a new table."""
        core = self.talk.core
        before = core.table
        there = [pool for pool in self.talk.engines if pool.engine.name not in gone]
        core.take_table(UpstreamTable(there, before, core.config.routes, deploy), [])
        self.talk.queue.follow(before, core.table)
        core.room()
