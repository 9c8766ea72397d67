"""Another process takes a gateway's place (SIGUSR2): streams go on, nobody is refused, and what was used is counted once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.upgrade.crowd import Http1, Http2, Seen, Where, newcomers, request
from fastgw import Config, Gateway
from fastgw.net.process_line import ProcessLine
from fastgw.net.supervisor import Supervisor
from fastgw.successor import Successor, command
from fastgw.upgrade import words
from tests.e2e.durability import Life, life, make_key
from tests.e2e.paced import ANSWER, PROMPT, WHOLE, Paced
from tests.support.client import RawClient
from tests.support.gateway import Events
from tests.support.pki import Certificates

STREAMS = 50  # of each kind
IS_THERE = "upgrade: the new process is the gateway"


def pids(gw: Life) -> list[int]:
    """All processes that have been the gateway."""
    return [line["pid"] for line in gw.said("listening")]


async def upgrade(gw: Life, number: int = 1) -> int:
    """Have another process take over, and return when it has; its id."""
    os.kill(pids(gw)[-1], signal.SIGUSR2)
    await gw.until("it has taken over", lambda: len(gw.said(IS_THERE)) == number and len(pids(gw)) == number + 1)
    return pids(gw)[-1]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def ended(pid: int) -> None:
    """Until that process is there no more. (Its parent may have ended before it.)"""
    for _ in range(1000):
        if not lives(pid):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not end")


@asynccontextmanager
async def upgradable(tmp_path: Path, engine: str, *, errors: bool = False, **env: str) -> AsyncIterator[Life]:
    """A gateway, of which whatever process is the last one ends with a drain."""
    env = {"FASTGW_KEEPALIVE_TIMEOUT_S": "5", **env}
    async with life(tmp_path, engine, errors=errors, **env) as gw:
        try:
            yield gw
        finally:
            for pid in reversed(pids(gw)):
                try:
                    os.kill(pid, signal.SIGTERM)
                except ProcessLookupError:
                    continue
                await ended(pid)


async def keeps_asking(kept: Http1, key: str) -> int:
    """One who keeps his connection asks again and again, until he is told that it ends with an answer; how often he has."""
    for count in range(1, 1000):
        await kept.ended
        assert kept.problem(False) == ""
        if kept.says_it_ends():
            return count
        await asyncio.sleep(0.2)
        kept.again(request(key, 1, False))
    raise AssertionError("he was never told")


def used(found: dict[str, Any]) -> tuple[int, int, int]:
    return found["requests"], found["prompt_tokens"], found["completion_tokens"]


class TestUnderLoad:
    """Streams by HTTP/1, by TLS and by HTTP/2 over it, and new connections all the time, by each of the two ways."""

    @pytest.mark.deadline_s(60)
    async def test_nobody_notices_and_each_token_is_counted_once(self, tmp_path: Path, certs: Certificates) -> None:
        """Twice in a row, with limits and a budget on, so that all of them are handed over, settled and given back."""
        limits = ("--tokens-per-minute", "10000000", "--daily-tokens", "10000000", "--requests-per-minute", "1000000",
                  "--concurrency", "500", "--budget", "1000000")  # fmt: skip
        _, key = make_key(tmp_path, *limits)
        paced = Paced()
        path = str(tmp_path / "clients")
        shown = {"FASTGW_TLS_CERT_FILE": certs.gateway.cert, "FASTGW_TLS_KEY_FILE": certs.gateway.key}
        prices = {"FASTGW_PRICES": "sim|1|2|1"}
        h1, h2 = certs.trusting(), certs.trusting()
        h2.set_alpn_protocols(["h2"])
        async with (
            paced.engine as engine,
            upgradable(tmp_path, engine.url, FASTGW_UNIX_SOCKET=path, **shown, **prices) as gw,
        ):
            port = int(gw.url.split()[0].rpartition(":")[2])
            places = [Where(unix=path), Where(port=port, tls=h1)]
            ones = [await place.connect(lambda: Http1(request(key, 50, True))) for place in places for _ in range(STREAMS)]
            many = await Where(port=port, tls=h2).connect(lambda: Http2(key, STREAMS, 50))
            kept = await places[0].connect(lambda: Http1(request(key, 1, False)))
            asks = asyncio.ensure_future(keeps_asking(kept, key))
            await asyncio.wait({many.begun, *(one.begun for one in ones)})
            seen, over = Seen(), asyncio.Event()
            crowd = asyncio.ensure_future(newcomers(places, key, 60.0, seen, over))
            await upgrade(gw)
            await upgrade(gw, 2)
            paced.go.set()
            await asyncio.wait({many.ended, *(one.ended for one in ones)})
            over.set()
            await crowd
            assert [why for one in ones if (why := one.problem(True))] == []
            assert (many.broken(), many.goaways[0]) == ([], 2**31 - 1), "told so before it is meant (RFC 9113, 6.8)"
            assert (seen.failed, seen.well) == ([], seen.asked)
            await ended(pids(gw)[0])
            await ended(pids(gw)[1])
            plain = seen.well + await asks
            requests, completion = 3 * STREAMS + plain, 3 * STREAMS * ANSWER + plain * WHOLE
            async with RawClient.connect(path) as client:
                await client.send(f"GET /v1/usage HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
                found = (await client.read_response()).json()
            assert used(found) == (requests, requests * PROMPT, completion)
            assert (found["quota_reserved"], found["requests_under_way"]) == (0, 0)
            assert found["quota_remaining"] == 10_000_000 - found["total_tokens"]
            os.kill(pids(gw)[-1], signal.SIGTERM)
            await ended(pids(gw)[-1])
            assert await asyncio.to_thread(os.path.exists, path) is False, "the last one leaves nothing behind"


@pytest.mark.once
class TestItFails:
    """Whatever becomes of the new process, the old one is the gateway as before, and says why."""

    @pytest.mark.deadline_s(60)
    async def test_a_bad_configuration_and_a_process_that_is_killed(self, tmp_path: Path) -> None:
        _, key = make_key(tmp_path)
        paced = Paced()
        written = tmp_path / "gw.toml"
        written.write_text("max_retries = 1\n")
        async with (
            paced.engine as engine,
            upgradable(tmp_path, engine.url, errors=True, FASTGW_CONFIG=str(written), FASTGW_UPGRADE_TIMEOUT_S="0.5") as gw,
        ):
            port = int(gw.url.rpartition(":")[2])
            stream = await Where(port=port).connect(lambda: Http1(request(key, 50, True)))
            await stream.begun
            written.write_text("max_retries = 1\nno_setting = 2\n")
            os.kill(pids(gw)[0], signal.SIGUSR2)
            await gw.until("it is told", lambda: b"all is as it was" in gw.log.read_bytes())
            assert b"no_setting" in gw.log.read_bytes(), "the new process says what is wrong"
            written.write_text("max_retries = 1\n")
            for kill in (True, False):  # killed as soon as it is there; and another one, told twice
                begun = gw.log.read_bytes().count(b"the new process starts")
                os.kill(pids(gw)[0], signal.SIGUSR2)
                await gw.until("it starts", lambda n=begun: gw.log.read_bytes().count(b"the new process starts") > n)
                if kill:
                    os.kill(starts(gw), signal.SIGKILL)
                    await gw.until("it is told", lambda: gw.log.read_bytes().count(b"all is as it was") == 2)
                    assert await gw.chat(key) == 200
                else:
                    os.kill(pids(gw)[0], signal.SIGUSR2)
                    await gw.until("it is told", lambda: b"one is under way" in gw.log.read_bytes())
            await gw.until("it has taken over", lambda: len(pids(gw)) == 2)
            await stream.ended
            assert b"shutting_down" in stream.received, "what was under way had upgrade_timeout_s"
            await ended(pids(gw)[0])
            assert await gw.chat(key) == 200
            assert (await gw.usage(key))["requests"] == 3


def starts(gw: Life) -> int:
    """The process that was started last."""
    return int(gw.said("upgrade: the new process starts")[-1]["pid"])


@pytest.mark.once
@pytest.mark.parametrize(("frozen", "called", "argv", "starts"), [
    (True, "{}/old/fastgw", ["{}/now/fastgw"], "{}/now/fastgw"),
    (True, "{}/old/fastgw", ["fastgw"], "{}/now/fastgw"),  # found as the shell had found it
    (True, "{}/old/fastgw", ["no-such"], "{}/old/fastgw"),
    (False, "{}/old/python", ["{}/now/fastgw"], "{}/now/fastgw"),  # a script, whose first line names a Python
    (False, "{}/old/python", ["-m", "fastgw"], "{}/old/python -m fastgw"),
    (False, "{}/old/python", ["-X", "dev", "{}/now/fastgw"], "{}/old/python -X dev {}/now/fastgw"),
    (False, "{}/old/python", ["{}/now/no-program"], "{}/old/python {}/now/no-program"),
])  # fmt: skip
def test_what_is_started_is_what_the_name_leads_to_now(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, frozen: bool, called: str, argv: list[str], starts: str
) -> None:
    """A version in a folder of its own, and a link that goes from one to the next."""
    (tmp_path / "new").mkdir()
    (tmp_path / "now").symlink_to("new")
    for name, mode in (("fastgw", 0o755), ("no-program", 0o644)):
        (tmp_path / "new" / name).touch(mode)
    monkeypatch.setenv("PATH", str(tmp_path / "now"))
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    monkeypatch.setattr(sys, "executable", called.format(tmp_path))
    words = [word.format(tmp_path) for word in argv]
    script = words[-1] if words[-1] != "fastgw" or frozen else "/somewhere/fastgw/__main__.py"
    monkeypatch.setattr(sys, "orig_argv", [*([] if frozen else ["python"]), *words, "serve"])
    monkeypatch.setattr(sys, "argv", [script, "serve"])
    assert " ".join(command()) == f"{starts} serve".replace("{}", str(tmp_path))


@pytest.mark.once
@pytest.mark.parametrize(("pid", "parent", "env", "why"), [
    (1, 0, {}, "takes its end for the end of the service"),
    (1, 0, {"NOTIFY_SOCKET": "@some"}, "takes its end for the end of the service"),
    (7, 1, {}, "takes its end for the end of the service"),  # (`docker run --init`, or a shell without `exec`)
    (7, 6, {"SYSTEMD_EXEC_PID": "7"}, "takes its end for the end of the service"),  # (`Type=simple`)
    (2, 3, {}, "the gateway starts, or ends"),
])  # fmt: skip
async def test_where_it_cannot_be_it_is_said_and_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, pid: int, parent: int, env: dict[str, str], why: str
) -> None:
    events = Events()
    for name in ("NOTIFY_SOCKET", "SYSTEMD_EXEC_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.getpid", lambda: pid)
    monkeypatch.setattr("os.getppid", lambda: parent)
    monkeypatch.setattr("fastgw.config.machine._read", lambda path: "tini\n")
    monkeypatch.setattr("fastgw.successor._started", lambda fd: pytest.fail("one was started"))
    one = Successor(Gateway(Config(port=0)), log=events, manager=Supervisor(""), handed=lambda: pytest.fail("handed over"))
    if "service" in why:
        one.ready()
    one.ask()
    await asyncio.sleep(0.01)
    assert [why in message for _, message, _ in events.lines] == [True]


@pytest.mark.once
@pytest.mark.parametrize(("pid", "parent", "first", "env"), [
    (7, 6, "tini", {}), (7, 1, "systemd", {}), (7, 1, "tini", {"NOTIFY_SOCKET": "@some", "SYSTEMD_EXEC_PID": "7"}),
    (7, 6, "systemd", {"SYSTEMD_EXEC_PID": "5"}),
])  # fmt: skip
async def test_who_has_handed_over_does_so_once_and_passes_a_reload_on(
    monkeypatch: pytest.MonkeyPatch, pid: int, parent: int, first: str, env: dict[str, str]
) -> None:
    """The new process may have read its settings before they were others."""
    events, handed, told = Events(), asyncio.Event(), []
    for name in ("NOTIFY_SOCKET", "SYSTEMD_EXEC_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.getpid", lambda: pid)
    monkeypatch.setattr("os.getppid", lambda: parent)
    monkeypatch.setattr("fastgw.config.machine._read", lambda path: first)
    monkeypatch.setattr("os.kill", lambda *what: told.append(what))

    class New:
        pid = 8

        def __init__(self, fd: int) -> None:
            frame = words.write(words.Ready("1", self.pid))
            os.write(fd, len(frame).to_bytes(4) + frame)

    class Old(Gateway):
        async def hand_over(self, line: ProcessLine, gone: Any) -> None:
            if parent == 1:
                one.read_again()
            line.close()

    monkeypatch.setattr("fastgw.successor._started", New)
    one = Successor(Old(Config(port=0)), log=events, manager=Supervisor(""), handed=handed.set)
    one.ready()
    one.read_again()  # (settled before it was asked)
    one.ask()
    await asyncio.wait_for(handed.wait(), 5)
    one.ask()
    assert [message for _, message, _ in events.lines] == [
        "upgrade: the new process starts", IS_THERE, "no upgrade now: the gateway starts, or ends"
    ]  # fmt: skip
    assert told == [(8, signal.SIGHUP)] * (parent == 1), "what was settled before it began is nobody's"


@pytest.mark.once
async def test_a_drain_is_not_held_for_a_process_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []

    class New:
        pid = 8

        def __init__(self, fd: int) -> None:
            self.poll, self.wait = lambda: None, lambda: -9

        def kill(self) -> None:
            killed.append(self.pid)

    monkeypatch.setattr("fastgw.successor._started", New)
    monkeypatch.setattr("fastgw.successor.ends_with_us", lambda: False)
    one = Successor(Gateway(Config(port=0)), log=Events(), manager=Supervisor(""), handed=lambda: pytest.fail("handed over"))
    one.ready()
    one.ask()
    await asyncio.sleep(0.01)
    async with asyncio.timeout(2):
        await one.stop()
    assert killed == [8]
