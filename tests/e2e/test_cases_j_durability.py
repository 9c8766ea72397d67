"""J3, J4: what was used, and which keys there are, through kills, bad disks, damaged files and restarts.

The gateway runs as people run it, ``python -m fastgw serve``, in a process of its own that can be killed; its disk is a small
one in a mount namespace of its own, which is filled or made read-only from here. Every chat of these tests costs the same, so
a day's usage that is no multiple of it was counted in part, and one that is too large was counted twice.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from functools import cache
from hashlib import sha256
from pathlib import Path
from time import monotonic, time
from typing import Any

import pytest

from fastgw.sim import SimConfig, Simulator
from tests.cli.test_cli import environment, run
from tests.e2e.metered import ask, estimate, prompt_tokens, say
from tests.support.client import NoResponse, RawClient, request
from tests.support.gateway import running

pytestmark = pytest.mark.once  # the store and the control listener have no twins

ADMIN = "sk-admin-of-these-tests"
TOKENS = 5
COST = prompt_tokens() + TOKENS
OVER = estimate() - prompt_tokens()  # what is expected beyond it
FLUSH_S = 0.1
DUE_S = FLUSH_S + 0.25 + 0.4  # the gateway looks four times a second; and this machine is shared
MOUNT = 'mount -t tmpfs -o size=512k none "$0" && '
DAMAGE = b"\xa5" * 20_000

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _one_day() -> None:
    """Usage is kept by day: these tests end on the day on which they began."""
    if time() % 86_400 > 86_400 - 120:
        pytest.skip("UTC midnight is near")


@cache
def can_mount() -> bool:
    """A user namespace in which we may mount (not in every container)."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    return (
        subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/tmp"], capture_output=True, check=False).returncode
        == 0
    )


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
        return [json.loads(line) for line in self.log.read_bytes().split(b"\n")[:-1]]

    def said(self, start: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["message"].startswith(start)]

    async def until(self, what: str, condition: Callable[[], Any], timeout_s: float = 15.0) -> None:
        end = monotonic() + timeout_s
        while not condition():
            assert monotonic() < end, f"not within {timeout_s:g} s: {what}\n{self.log.read_text()[-2000:]}"
            await asyncio.sleep(0.01)

    async def listening(self) -> None:
        await self.until("it listens", lambda: self.process.poll() is not None or self.said("listening"))
        assert self.process.poll() is None, self.log.read_text()
        (line,) = self.said("listening")
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
    folder: Path, engine: str, *, within: str = "", arguments: Sequence[str] = (), wait: bool = True, **env: str
) -> AsyncIterator[Life]:
    """A gateway whose state is ``folder/disk/state``. ``within``: shell commands in a mount namespace of its own, before it
    starts; ``$0`` is ``folder/disk``, ``arguments`` are ``$1`` and so on. Killed at the end if it still lives."""
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
        "FASTGW_ACCESS_LOG": "false", "FASTGW_DRAIN_TIMEOUT_S": "2", "RATE_LIMIT_PER_SECOND": "0", **env,
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
    assert '"level":"error"' not in log.read_text(), log.read_text()[-2000:]


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


class Load:
    """Clients that ask one thing after the other until their gateway is gone."""

    def __init__(self, url: str, key: str, clients: int = 4) -> None:
        self.sent = self.answered = 0
        self.samples: list[tuple[float, int]] = []  # what /v1/usage said, and when it had said it
        self._url = url
        self._key = key
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(clients)]
        self._tasks.append(asyncio.create_task(self._watch()))

    async def over(self) -> None:
        """All have noticed that the gateway is gone."""
        async with asyncio.timeout(10.0):
            await asyncio.gather(*self._tasks)

    def counted(self, before: float) -> int:
        """What had been counted at that time, as far as was asked."""
        return max((count for at, count in self.samples if at <= before), default=0)

    async def _client(self, number: int) -> None:
        data = say(TOKENS, key=self._key, stream=bool(number % 2))
        try:
            async with RawClient.connect(self._url) as client:
                while True:
                    self.sent += 1
                    await client.send(data)
                    answer = await client.read_response()
                    if not answer.complete:
                        return
                    assert answer.status == 200, answer.body
                    self.answered += 1
                    await asyncio.sleep(0.002)  # others use this machine too
        except (NoResponse, OSError):
            return

    async def _watch(self) -> None:
        data = request("GET", "/v1/usage", key=self._key)
        try:
            async with RawClient.connect(self._url) as client:
                while True:
                    answer = await ask(client, data)
                    if not answer.complete:
                        return
                    self.samples.append((monotonic(), answer.json()["requests"]))
                    await asyncio.sleep(0.01)
        except (NoResponse, OSError):
            return


async def test_J3_five_kills_under_load(tmp_path: Path) -> None:
    await kills_under_load(tmp_path, 5)


@pytest.mark.soak
@pytest.mark.deadline_s(120)
async def test_J3_twenty_kills_under_load(tmp_path: Path) -> None:
    await kills_under_load(tmp_path, 20)


async def kills_under_load(tmp_path: Path, times: int) -> None:
    """Lost is at most what was used since the last writing; nothing is counted twice or in part; the file stays sound."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    id, key = make_key(tmp_path, "--daily-tokens", str(10**9))
    least = most = served = lost = 0  # of the key's requests: what a new life must find
    async with Simulator(SimConfig(record=0)) as sim:
        for number in range(times):
            if number % 5 == 4:
                async with life(tmp_path, sim.url, wait=False) as dying:  # perhaps before it has read anything
                    await asyncio.sleep(chance.uniform(0.0, 0.3))
                    await dying.end(signal.SIGKILL)
                continue
            async with life(tmp_path, sim.url) as one:
                found = await one.requests(key)
                assert least <= found <= most
                lost += served - found
                sound(one.state)
                load = Load(one.url, key)
                await asyncio.sleep(chance.uniform(0.05, 0.4) if number % 5 else 0.9)
                row = written(one.state, id)
                killed = monotonic()
                assert await one.end(signal.SIGKILL) == -signal.SIGKILL
                await load.over()
                if row:
                    durable(row, row["requests"])
                least = max(found, row["requests"] if row else 0, load.counted(killed - DUE_S))
                most = found + load.sent
                served = found + load.answered
                assert least <= most
        async with life(tmp_path, sim.url) as one:
            found = await one.requests(key)
            assert least <= found <= most
            assert found > 10 * times, "hardly anything was written: this proves nothing"
            assert await one.chat(key) == 200
            assert await one.end() == 0
            durable(written(one.state, id), found + 1)
            sound(one.state)
    print(f"{found} requests are there; of those that were answered, {lost} were not written down yet when their life ended")


class TestRestart:
    async def test_J3_a_restart_keeps_what_was_used_and_the_quota(self, tmp_path: Path) -> None:
        """Of keys of the store, of keys of the configuration, and through any number of restarts."""
        id, key = make_key(tmp_path, "--daily-tokens", str(3 * COST + OVER))
        settings: Any = {"GATEWAY_API_KEYS": "sk-configured"}
        async with Simulator() as sim:
            for round_ in range(3):
                async with life(tmp_path, sim.url, **settings) as one:
                    assert await one.requests(key) == round_
                    assert await one.requests("sk-configured") == 2 * round_
                    statuses = [await one.chat(who) for who in (key, "sk-configured", "sk-configured")]
                    assert statuses == [200, 200, 200]
                    assert (await one.usage(key))["quota_remaining"] == (2 - round_) * COST + OVER
                    assert await one.end() == 0
            async with life(tmp_path, sim.url, **settings) as one:
                assert await one.chat(key) == 429
                assert await one.chat("sk-configured") == 200
                assert (await one.usage(key))["quota_remaining"] == OVER
                async with RawClient.connect(one.control) as client:
                    shown = (await ask(client, request("GET", f"/admin/keys/{id}", key=ADMIN))).json()
                assert shown["usage"]["quota_remaining"] == OVER
                assert await one.end() == 0

    async def test_J3_without_any_key_usage_is_kept_too(self, tmp_path: Path) -> None:
        async with Simulator() as sim:
            for round_ in range(2):
                async with life(tmp_path, sim.url, DAILY_TOKEN_QUOTA=str(10 * COST)) as one:
                    assert await one.requests(None) == round_
                    assert await one.chat(None) == 200
                    assert (await one.usage(None))["quota_remaining"] == (9 - round_) * COST
                    assert await one.end() == 0

    async def test_J3_sigterm_writes_the_last_of_it(self, tmp_path: Path) -> None:
        """Also what a stream has used that ends while the gateway drains; nothing waits for the next writing."""
        id, key = make_key(tmp_path)
        async with Simulator(SimConfig(itl_ms=50)) as sim:
            async with life(tmp_path, sim.url, FASTGW_FLUSH_INTERVAL_S="3600") as one, RawClient.connect(one.url) as client:
                assert await one.chat(key) == 200
                await client.send(say(20, stream=True, key=key))
                head = await client.read_head()
                assert written(one.state, id) is None
                ending = asyncio.create_task(one.end())
                answer = await client.read_body(head)
                assert answer.events()[-1] == "[DONE]"
                assert await ending == 0
            assert not (one.state / "fastgw.db-journal").stat().st_size, "nothing is left to be undone"
            row = written(one.state, id)
            assert row == {"prompt": 2 * prompt_tokens(), "completion": TOKENS + 20, "requests": 2}
            sound(one.state)

    async def test_J3_one_gateway_to_a_folder(self, tmp_path: Path) -> None:
        """The second one says so in one line and ends; the first one is not disturbed, and its place is free afterwards."""
        _, key = make_key(tmp_path)
        async with Simulator() as sim:
            async with life(tmp_path, sim.url) as one:
                async with life(tmp_path, sim.url, wait=False) as two:
                    await two.until("it gives up", lambda: two.process.poll() is not None)
                    assert two.process.returncode == 1
                    told = two.log.read_text()
                    assert told.count("\n") == 1
                    assert f"another gateway (process {one.process.pid})" in told
                    assert str(one.state) in told
                assert await one.chat(key) == 200
                assert await one.metric("gateway_store_up") == 1
                await one.end(signal.SIGKILL)
            async with life(tmp_path, sim.url) as three:
                assert await three.chat(key) == 200
                assert await three.end() == 0


class TestDisk:
    """J4: the disk fails. Requests go on, the metric and the log say so, and the sums are right when it is well again."""

    @pytest.mark.skipif("not can_mount()", reason="no user namespace to mount a small disk in")
    async def test_J4_read_only_from_the_start(self, tmp_path: Path) -> None:
        """Keys and usage of before are known; what is used now is kept in memory until the disk takes it."""
        id, key = make_key(tmp_path, "--daily-tokens", "100000")
        async with Simulator() as sim:
            async with life(tmp_path, sim.url) as before:
                assert [await before.chat(key) for _ in range(2)] == [200, 200]
                assert await before.end() == 0
            seed = tmp_path / "seed"
            (tmp_path / "disk" / "state").rename(seed)
            within = MOUNT + 'cp -a "$1" "$0/state" && mount -o remount,ro "$0" && '
            async with life(tmp_path, sim.url, within=within, arguments=[str(seed)]) as one:
                assert await one.metric("gateway_store_up") == 0
                assert await one.requests(key) == 2
                assert await one.chat("sk-unknown") == 401
                assert [await one.chat(key) for _ in range(3)] == [200, 200, 200]
                assert await one.requests(key) == 5
                await asyncio.sleep(0.6)  # some writings fail
                assert await one.metric("gateway_store_up") == 0
                assert await one.metric("gateway_store_write_failures_total") >= 1
                (told,) = one.said("the state cannot be written")
                assert "read" in told["reason"].lower()
                async with RawClient.connect(one.control) as client:
                    refused = await ask(client, request("POST", "/admin/keys", key=ADMIN, body=b"{}"))
                assert (refused.status, refused.error["code"]) == (503, "store_unavailable")
                durable(written(seed, id), 2)
                one.remount("rw")
                await one.until_metric("gateway_store_up", 1)
                await one.until_written(id, 5, one.enter)
                await one.until("the log says so", lambda: len(one.said("the state is written again")) == 1)
                assert await one.chat(key) == 200
                assert await one.requests(key) == 6
                assert await one.end() == 0

    @pytest.mark.skipif("not can_mount()", reason="no user namespace to mount a small disk in")
    async def test_J4_a_disk_that_fills_up(self, tmp_path: Path) -> None:
        async with Simulator() as sim, life(tmp_path, sim.url, within=MOUNT, GATEWAY_API_KEYS="sk-full") as one:
            id = sha256(b"sk-full").hexdigest()[:12]
            assert await one.chat("sk-full") == 200
            await one.until_written(id, 1, one.enter)
            assert await one.metric("gateway_store_up") == 1
            filler = one.disk / "filler"
            fill(filler)
            for _ in range(3):
                assert await one.chat("sk-full") == 200
                await asyncio.sleep(0.3)
            await one.until_metric("gateway_store_up", 0)
            assert await one.requests("sk-full") == 4
            await one.until("the log says so", lambda: one.said("the state cannot be written"))
            (told,) = one.said("the state cannot be written")
            assert "full" in told["reason"].lower()
            filler.unlink()
            await one.until_metric("gateway_store_up", 1)
            await one.until_written(id, 4, one.enter)
            await one.until("the log says so", lambda: len(one.said("the state is written again")) == 1)
            assert await one.end() == 0

    async def test_J4_writes_that_fail(self, tmp_path: Path) -> None:
        """Files may not grow (RLIMIT_FSIZE): SQLite's writes fail half-way, as with a sick disk."""
        if shutil.which("prlimit") is None:
            pytest.skip("no prlimit")
        id, key = make_key(tmp_path)
        async with Simulator() as sim:
            async with life(tmp_path, sim.url) as one:
                assert await one.chat(key) == 200
                await one.until_written(id, 1)
                limit_files(one.process.pid, "20000")
                for _ in range(3):
                    assert await one.chat(key) == 200
                    await asyncio.sleep(0.3)
                await one.until_metric("gateway_store_up", 0)
                assert await one.requests(key) == 4
                limit_files(one.process.pid, "unlimited")
                await one.until_metric("gateway_store_up", 1)
                await one.until_written(id, 4)
                await one.until("the log says so", lambda: len(one.said("the state is written again")) == 1)
                assert len(one.said("the state cannot")) == 1
                # And when it stays sick to the end, the end comes all the same, and what was written stays.
                limit_files(one.process.pid, "20000")
                assert await one.chat(key) == 200
                begin = monotonic()
                assert await one.end() == 0
                assert monotonic() - begin < 15
                assert len(one.said("the state cannot")) == 2
            async with life(tmp_path, sim.url) as one:
                assert 4 <= await one.requests(key) <= 5
                assert await one.end() == 0

    @pytest.mark.deadline_s(60)
    async def test_J4_another_writer_holds_the_file(self, tmp_path: Path) -> None:
        """Three seconds long: nobody who asks notices, except the operator."""
        state = tmp_path / "state"
        settings: dict[str, Any] = {
            "state_dir": str(state), "control_listen": "127.0.0.1:0", "flush_interval_s": 0.1, "api_keys": ("sk-busy",),
        }  # fmt: skip
        async with Simulator() as sim, running([sim.url], **settings) as gw, RawClient.connect(gw.url) as client:
            with closing(sqlite3.connect(state / "fastgw.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                end = monotonic() + 3.0
                slowest = 0.0
                count = 0
                while monotonic() < end:
                    begin = monotonic()
                    assert (await ask(client, say(TOKENS, key="sk-busy"))).status == 200
                    slowest = max(slowest, monotonic() - begin)
                    count += 1
                    await asyncio.sleep(0.02)
                up = await scraped(gw.gateway.control_url, "gateway_store_up")
                other.execute("ROLLBACK")
            assert up == 0
            assert slowest < 0.5, "a request has waited for the disk"
            await gw.until("it is well again", lambda: any("written again" in line[1] for line in gw.events.lines), 8.0)
            assert await scraped(gw.gateway.control_url, "gateway_store_up") == 1
            assert [line[0] for line in gw.events.lines if "the state" in line[1]] == ["warning", "info"]
            assert "BUSY" in next(line[2]["reason"] for line in gw.events.lines if "cannot be written" in line[1])
            account = next(one for one in gw.gateway.core.accounts.all() if one.ledger.requests)  # type: ignore[union-attr]
            await gw.until("it is written", lambda: (written(state, account.id) or {"requests": 0})["requests"] == count)
            durable(written(state, account.id), count)


class TestDamage:
    """J4: the file is damaged when the gateway starts."""

    async def test_J4_a_damaged_file_is_refused(self, tmp_path: Path) -> None:
        make_key(tmp_path)
        file = tmp_path / "disk" / "state" / "fastgw.db"
        damage(file)
        held = file.read_bytes()
        async with Simulator() as sim, life(tmp_path, sim.url, wait=False) as one:
            await one.until("it gives up", lambda: one.process.poll() is not None)
            assert one.process.returncode == 1
            told = one.log.read_text()
            assert told.count("\n") == 1, told
            assert str(file) in told
            assert "set_aside" in told, "it says what can be done"
            assert file.read_bytes() == held, "it is left as it was"

    async def test_J4_a_damaged_file_is_set_aside(self, tmp_path: Path) -> None:
        """If so configured: traffic goes on, the file is kept for whoever can read it, and a new one is written."""
        _, key = make_key(tmp_path)
        file = tmp_path / "disk" / "state" / "fastgw.db"
        damage(file)
        held = file.read_bytes()
        settings: Any = {"FASTGW_ON_CORRUPT_STATE": "set_aside", "GATEWAY_API_KEYS": "sk-configured"}
        async with Simulator() as sim:
            async with life(tmp_path, sim.url, **settings) as one:
                (told,) = one.said("damaged state was set aside")
                assert same(told["file"], held)
                assert await one.chat("sk-configured") == 200
                assert await one.chat(key) == 401
                assert await one.metric("gateway_store_up") == 1
                assert await one.end() == 0
            sound(one.state)
            async with life(tmp_path, sim.url, **settings) as one:
                assert not one.said("damaged state")
                assert await one.requests("sk-configured") == 1
                assert await one.end() == 0


def same(file: str, held: bytes) -> bool:
    return Path(file).read_bytes() == held


def damage(file: Path) -> None:
    """All but the first page is overwritten."""
    size = file.stat().st_size
    assert size > 4096
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(DAMAGE[: size - 4096])


def fill(filler: Path) -> None:
    """Leave no byte free on the disk where this file is."""
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
    for size in (4096, 1):
        try:
            while True:
                os.write(fd, b"x" * size)
        except OSError:
            continue
    os.close(fd)


def limit_files(pid: int, size: str) -> None:
    """How large a file of the process may grow; the hard limit stays."""
    subprocess.run(["prlimit", "--pid", str(pid), f"--fsize={size}:"], check=True, timeout=10)


async def scraped(control: str, name: str) -> float:
    async with RawClient.connect(control) as client:
        answer = await ask(client, request("GET", "/metrics"))
    (value,) = [line.split()[-1] for line in answer.body.decode().splitlines() if line.split()[0] == name]
    return float(value)
