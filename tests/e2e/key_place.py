"""A gateway, its state folder, and the two ways to change its keys."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from fastgw.limits.account import Accounts
from fastgw.sim import SimConfig, Simulator
from tests.cli.test_cli import run
from tests.e2e.metered import ask, prompt_tokens
from tests.support.client import RawClient, RawResponse, request
from tests.support.gateway import Running, running

ADMIN = "sk-admin-of-these-tests"
WITHIN_S = 1.0  # the promise for changes that others make to the store
TOKENS = 5
COST = prompt_tokens() + TOKENS  # what one chat of these tests uses, as the engine counts


class Place:
    """A gateway, its engine, its state folder, and the two ways to change its keys."""

    def __init__(self, gw: Running, sim: Simulator, folder: Path) -> None:
        self.gw = gw
        self.sim = sim
        self.folder = folder

    @property
    def accounts(self) -> Accounts:
        core = self.gw.gateway.core
        assert core is not None
        return core.accounts

    async def command(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """``fastgw keys ...`` in a process of its own."""
        return await asyncio.to_thread(run, self.folder.parent, "keys", "--state-dir", str(self.folder), *argv)

    async def said(self, *argv: str) -> Any:
        """The JSON that the command prints."""
        done = await self.command(*argv, "--json")
        assert (done.returncode, done.stderr) == (0, ""), done
        return json.loads(done.stdout)

    async def admin(
        self, method: str, path: str, document: object = None, *, status: int = 200, key: str | None = ADMIN
    ) -> Any:
        """What the admin API answers."""
        body = None if document is None else json.dumps(document).encode()
        headers = [] if body is None else [("Content-Type", "application/json")]
        async with RawClient.connect(self.gw.gateway.control_url) as client:
            answer = await ask(client, request(method, path, headers=headers, body=body, key=key))
        assert answer.status == status, answer.body
        return answer.json() if answer.body else None

    async def key(self, **fields: Any) -> tuple[str, str]:
        """A new key, by API: its id and its text."""
        made = await self.admin("POST", "/admin/keys", fields, status=201)
        return made["id"], made["key"]

    async def change(self, id: str, **fields: Any) -> None:
        await self.admin("PATCH", f"/admin/keys/{id}", fields)

    async def usage(self, key: str) -> dict[str, Any]:
        async with RawClient.connect(self.gw.url) as client:
            answer = await ask(client, request("GET", "/v1/usage", key=key))
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json()
        return found


@asynccontextmanager
async def place(tmp_path: Path, sim: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Place]:
    """The gateway has been told which models its engine has."""
    settings = {"state_dir": str(tmp_path / "state"), "control_listen": "127.0.0.1:0", "admin_key": ADMIN, **settings}
    async with Simulator(SimConfig(**(sim or {}))) as simulator, running([simulator.url], **settings) as gw:
        core = gw.gateway.core
        assert core is not None
        await gw.until("the engine's models are known", lambda: core.table.models)
        yield Place(gw, simulator, tmp_path / "state")
        await gw.idle()


async def becomes(client: RawClient, data: bytes, status: int, within_s: float = WITHIN_S) -> RawResponse:
    """The same bytes, again and again on one connection, as long as it lasts, are answered with ``status`` in time."""
    begin = monotonic()
    while (answer := await ask(client, data)).status != status:
        assert monotonic() - begin < within_s, (answer.status, answer.body)
        await asyncio.sleep(0.05)
    return answer
