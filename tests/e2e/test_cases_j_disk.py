"""J4: what was used, and which keys there are, through bad disks and damaged files."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from functools import cache
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from fastgw.sim import Simulator
from tests.e2e.durability import (
    ADMIN,
    TOKENS,
    _one_day,  # noqa: F401 - for all that is here
    durable,
    life,
    make_key,
    same,
    sound,
    written,
)
from tests.e2e.metered import ask, say
from tests.support.client import RawClient, request
from tests.support.gateway import running

pytestmark = pytest.mark.once  # the store and the control listener have no twins
MOUNT = 'mount -t tmpfs -o size=512k none "$0" && '
DAMAGE = b"\xa5" * 20_000


@cache
def can_mount() -> bool:
    """A user namespace in which we may mount (not in every container)."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    return (
        subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/tmp"], capture_output=True, check=False).returncode
        == 0
    )


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
