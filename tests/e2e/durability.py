"""One ``fastgw serve`` that keeps what was used on disk, from its start to its end, and clients that ask it.

The gateway runs as people run it, ``python -m fastgw serve``, in a process of its own that can be killed; its disk is a small
one in a mount namespace of its own, which is filled or made read-only from here. Every chat of these tests costs the same, so
a day's usage that is no multiple of it was counted in part, and one that is too large was counted twice.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic, time
from typing import Any

import pytest

from tests.cli.test_cli import environment, run
from tests.e2e.metered import ask, prompt_tokens, say
from tests.support.client import RawClient, request

ADMIN = "sk-admin-of-these-tests"
TOKENS = 5
FLUSH_S = 0.1

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _one_day() -> None:
    """Usage is kept by day: these tests end on the day on which they began."""
    if time() % 86_400 > 86_400 - 120:
        pytest.skip("UTC midnight is near")


def durable(sum_: dict[str, int] | None, requests: int) -> None:
    """Totals of ``requests`` whole chats, and of nothing else."""
    assert sum_ == {"prompt": requests * prompt_tokens(), "completion": requests * TOKENS, "requests": requests}


class Life:
    """One ``fastgw serve`` process, from its start to its end."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, state: Path) -> None:
        self.process = process
        self.log = log
        self.state = state
        self.url = self.control = ""

    def lines(self) -> list[dict[str, Any]]:
        whole = self.log.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in whole if line.startswith(b"{")]  # (what comes before there is a log is none)

    def said(self, start: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["message"].startswith(start)]

    async def until(self, what: str, condition: Callable[[], Any], timeout_s: float = 15.0) -> None:
        end = monotonic() + timeout_s
        while not condition():
            assert monotonic() < end, f"not within {timeout_s:g} s: {what}\n{self.log.read_text()[-2000:]}"
            await asyncio.sleep(0.01)

    async def listening(self) -> None:
        def listens() -> list[dict[str, Any]]:
            return [line for line in self.said("listening") if "worker" not in line]

        await self.until("it listens", lambda: self.process.poll() is not None or listens())
        assert self.process.poll() is None, self.log.read_text()
        (line,) = listens()
        self.url, self.control = line["urls"], line["control"]

    async def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        await self.until("it ends", lambda: self.process.poll() is not None)
        return self.process.returncode

    # --- from outside
    async def chat(self, key: str | None) -> int:
        async with RawClient.connect(self.url) as client:
            return (await ask(client, say(TOKENS, key=key))).status

    async def usage(self, key: str | None) -> dict[str, Any]:
        async with RawClient.connect(self.url) as client:
            answer = await ask(client, request("GET", "/v1/usage", key=key))
        assert answer.status == 200, answer.body
        found: dict[str, Any] = answer.json()
        return found

    async def requests(self, key: str | None) -> int:
        """How many the key's usage of today has; each of them whole."""
        found = await self.usage(key)
        count = int(found["requests"])
        durable({"prompt": found["prompt_tokens"], "completion": found["completion_tokens"], "requests": count}, count)
        return count

    async def metric(self, name: str) -> float:
        async with RawClient.connect(self.control) as client:
            answer = await ask(client, request("GET", "/metrics"))
        (value,) = [line.split()[-1] for line in answer.body.decode().splitlines() if line.split()[0] == name]
        return float(value)

    async def until_metric(self, name: str, value: float, timeout_s: float = 10.0) -> None:
        end = monotonic() + timeout_s
        while (found := await self.metric(name)) != value:
            assert monotonic() < end, (name, found, self.log.read_text()[-2000:])
            await asyncio.sleep(0.02)

    # --- its files, as it sees them
    @property
    def enter(self) -> list[str]:
        """What a command begins with that is to see the same mounts."""
        return ["nsenter", "--target", str(self.process.pid), "--user", "--mount"]

    @property
    def disk(self) -> Path:
        """Its disk, for plain files (SQLite would follow the link to a place that is ours)."""
        return Path(f"/proc/{self.process.pid}/root{self.state.parent}")

    def remount(self, how: str) -> None:
        subprocess.run([*self.enter, "mount", "-o", f"remount,{how}", str(self.state.parent)], check=True, timeout=10)

    async def until_written(self, key_id: str, requests: int, enter: Sequence[str] = (), timeout_s: float = 10.0) -> None:
        """The file has exactly that many whole requests of the key, and is sound."""
        end = monotonic() + timeout_s
        while True:
            found = await asyncio.to_thread(looked, enter, self.state, key_id)
            row = judged_rows(found["rows"])
            if row and row["requests"] == requests:
                break
            assert monotonic() < end, (row, self.log.read_text()[-2000:])
            await asyncio.sleep(0.02)
        durable(row, requests)
        assert found["check"] == [["ok"]]


@asynccontextmanager
async def life(
    folder: Path, engine: str, *, within: str = "", arguments: Sequence[str] = (), wait: bool = True, errors: bool = False,
    **env: str,
) -> AsyncIterator[Life]:
    """A gateway whose state is ``folder/disk/state``. ``within``: shell commands in a mount namespace of its own, before it
    starts; ``$0`` is ``folder/disk``, ``arguments`` are ``$1`` and so on. Killed at the end if it still lives.
    ``errors``: its log may have some."""
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    log = folder / f"log-{next(_numbers)}"
    command = [sys.executable, "-m", "fastgw", "serve"]
    if within:
        script = f'{within}shift {len(arguments)} && exec "$@"'
        command = ["unshare", "-rm", "sh", "-c", script, str(disk), *arguments, *command]
    settings = {
        "BACKENDS": f"{engine}||sim", "ADMIN_KEY": ADMIN, "FASTGW_STATE_DIR": str(disk / "state"), "FASTGW_PORT": "0",
        "FASTGW_CONTROL_LISTEN": "127.0.0.1:0", "FASTGW_FLUSH_INTERVAL_S": str(FLUSH_S), "FASTGW_LOG_FORMAT": "json",
        "FASTGW_ACCESS_LOG": "false", "FASTGW_DRAIN_TIMEOUT_S": "2", "RATE_LIMIT_PER_SECOND": "0",
        "FASTGW_METRICS_CACHE_S": "0", **env,
    }  # fmt: skip
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            command, cwd=folder, env=environment(**settings), stdout=file, stderr=file
        )
    one = Life(process, log, disk / "state")
    try:
        if wait:
            await one.listening()
        yield one
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    assert errors or '"level":"error"' not in log.read_text(), log.read_text()[-2000:]


def make_key(folder: Path, *flags: str) -> tuple[str, str]:
    """A key in the state of ``folder``, by command: its id and its text."""
    (folder / "disk").mkdir(exist_ok=True)
    done = run(folder, "keys", "create", "--json", *flags, FASTGW_STATE_DIR=str(folder / "disk" / "state"))
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    return made["id"], made["key"]


def look(state: str, key_id: str) -> dict[str, list[Any]]:
    """What the file says that a key has used, and what SQLite says of the file. Also run by processes of their own."""
    import pathlib
    import sqlite3

    database = sqlite3.connect(f"{pathlib.Path(state, 'fastgw.db').as_uri()}?mode=ro", uri=True)
    try:
        rows = database.execute("SELECT prompt, completion, requests FROM usage WHERE key_id = ?", (key_id,)).fetchall()
        return {"rows": rows, "check": database.execute("PRAGMA integrity_check").fetchall()}
    finally:
        database.close()


def looked(enter: Sequence[str], state: Path, key_id: str) -> dict[str, Any]:
    """The same from within a mount namespace."""
    lines = ("from __future__ import annotations", inspect.getsource(look), "import json, sys")
    code = "\n".join([*lines, "print(json.dumps(look(*sys.argv[1:])))"])
    command = [*enter, sys.executable, "-I", "-c", code, str(state), key_id]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def written(state: Path, key_id: str) -> dict[str, int] | None:
    """What the file says that a key has used, read beside the gateway; None = nothing."""
    return judged_rows(look(str(state), key_id)["rows"])


def sound(state: Path) -> None:
    assert look(str(state), "")["check"] == [("ok",)]


def judged_rows(rows: list[Any]) -> dict[str, int] | None:
    assert len(rows) <= 1, "one key, one day, one row"
    return dict(zip(("prompt", "completion", "requests"), rows[0], strict=True)) if rows else None


def same(file: str, held: bytes) -> bool:
    return Path(file).read_bytes() == held
