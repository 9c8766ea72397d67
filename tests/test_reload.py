"""``fastgw serve`` reads its settings again, as people have it do so: a file, SIGHUP, the log, the manager, the admin API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from fastgw.sim import SimConfig, Simulator
from tests.cli.test_cli import environment
from tests.e2e.test_cases_k_process import Served
from tests.support.client import RawClient, chat, request
from tests.support.pki import Certificates, Pair

pytestmark = [pytest.mark.once, pytest.mark.together]  # (how each twin follows: tests/e2e/test_follow.py)

KEY = "sk-of-these-tests"
ADMIN = "sk-admin-of-these-tests"
READ = "the configuration was read again"
REFUSED = "the configuration was not taken over, all is as it was"


class Reloaded(Served):
    """A gateway with a file of settings."""

    toml: Path

    def lines(self) -> list[dict[str, Any]]:
        """(nohup says a line of its own.)"""
        whole = self.log.read_bytes().split(b"\n")[:-1] if self.log.exists() else []
        return [json.loads(line) for line in whole if line.startswith(b"{")]

    def writes(self, text: str) -> None:
        """As editors do, and whoever else replaces a file: it is never half of what it says."""
        half = self.toml.with_suffix(".new")
        half.write_text(text)
        half.rename(self.toml)

    def hup(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    async def again(self, message: str = READ) -> dict[str, Any]:
        """SIGHUP, and what the log says of it."""
        before = len(self.said(message))
        self.hup()
        await self.until(message, lambda: len(self.said(message)) > before)
        return self.said(message)[-1]

    async def status(self, key: str = KEY) -> int:
        async with RawClient.connect("127.0.0.1", self.port) as client:
            await client.send(chat("sim", key=key, max_tokens=2))
            return (await client.read_response()).status


@asynccontextmanager
async def serving(tmp_path: Path, text: str, how: Sequence[str] = ("-m", "fastgw"), **env: str) -> AsyncIterator[Reloaded]:
    toml, log = tmp_path / "fastgw.toml", tmp_path / "gateway.log"
    toml.write_text(text)
    argv = [sys.executable, *how, "serve", "--config", str(toml), "--port", "0", "--log-format", "json"]
    with log.open("ab") as file:
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            argv, cwd=tmp_path, env=environment(**env), stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    served = Reloaded(process, log)
    served.toml = toml
    try:
        await served.until("the gateway listens", lambda: process.poll() is not None or served.said("listening"))
        assert process.poll() is None, log.read_text()
        served.port = int(served.said("listening")[0]["urls"].split()[0].rpartition(":")[2])
        yield served
    finally:
        process.kill()
        process.wait()


def settings(engine: str, key: str = KEY, **more: str) -> str:
    lines = [f'api_keys = ["{key}"]', *(f"{name} = {value}" for name, value in more.items())]
    return "\n".join([*lines, "[[engines]]", f'url = "{engine}"', ""])


async def test_a_new_key_holds_and_the_old_one_does_not_and_a_stream_goes_on(tmp_path: Path) -> None:
    async with Simulator(SimConfig(itl_ms=4.0, output_tokens=100)) as sim, serving(tmp_path, settings(sim.url)) as served:
        async with RawClient.connect("127.0.0.1", served.port) as client:
            await client.send(chat("sim", stream=True, key=KEY))
            answer = await client.read_until(await client.read_head(), b"data: ")
            served.writes(settings(sim.url, "another", port="8081"))
            line = await served.again()
            assert line["changed"] == "api_keys"
            assert await served.status() == 401
            assert await served.status("another") == 200
            answer = await client.read_body(answer)
        assert answer.complete
        assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_what_is_wrong_changes_nothing_and_is_told_in_one_line(tmp_path: Path) -> None:
    async with Simulator() as sim, serving(tmp_path, settings(sim.url)) as served:
        served.writes(settings(sim.url, "another", queue_size="-1", quee_size="3"))
        line = await served.again(REFUSED)
        assert line["level"] == "error"
        assert line["mistakes"] == 2
        assert "fastgw.toml:2: queue_size: must be a whole number" in line["problems"]
        assert "did you mean queue_size?" in line["problems"]
        assert await served.status() == 200
        assert await served.status("another") == 401
        served.writes(settings(sim.url, "another"))
        await served.again()
        assert await served.status("another") == 200


async def test_certificates_are_read_again_and_what_cannot_be_used_leaves_those_there_were(
    tmp_path: Path, certs: Certificates
) -> None:
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def put(pair: Pair) -> None:
        cert.write_text(Path(pair.cert).read_text())
        key.write_text(Path(pair.key).read_text())

    async def shown() -> bytes:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=_trusting_anybody())
        try:
            found: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
        finally:
            writer.close()
        return found

    put(certs.gateway)
    files = {"tls_cert_file": f'["{cert}"]', "tls_key_file": f'["{key}"]'}
    taken, refused = "certificates were read again", "certificates were not taken over"
    async with Simulator() as sim, serving(tmp_path, settings(sim.url, **files)) as served:
        first = await shown()
        put(Pair(certs.gateway.cert, certs.other.key))
        await served.again()
        await served.until("it is told", lambda: served.said(refused))
        assert "the key does not belong to the certificate" in served.said(refused)[0]["reason"]
        assert await shown() == first
        put(certs.other)
        served.writes(settings(sim.url, **files, tls_min_version='"1.3"'))
        await served.again()
        assert served.said("some settings wait for a restart, and are as they were")[-1]["settings"] == "tls_min_version"
        await served.until("they are taken over", lambda: served.said(taken))
        assert await shown() != first


def _trusting_anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


WRONG: list[tuple[str, str]] = [
    ("x = " + "[" * 100_000, "nested too deeply"),
    ("x = " + "9" * 5000, "a number is too long"),
    ("".join(f"[a{at}]\n" for at in range(20_000)), "a0: there is no such setting"),
]


@pytest.mark.parametrize(("text", "told"), WRONG, ids=["deep", "long", "wide"])
async def test_a_wrong_file_is_told_of_soon_and_in_a_line_that_can_be_read(tmp_path: Path, text: str, told: str) -> None:
    async with Simulator() as sim, serving(tmp_path, settings(sim.url)) as served:
        served.writes(text)
        line = await served.again(REFUSED)
        assert told in line["problems"]
        assert len(line["problems"]) < 10_000
        assert await served.status() == 200


async def test_a_file_that_cannot_be_read_to_its_end_holds_no_later_reload(tmp_path: Path) -> None:
    """A pipe that nobody writes to."""
    env = {"FASTGW_CONTROL_LISTEN": "127.0.0.1:0", "ADMIN_KEY": ADMIN}
    async with Simulator() as sim, serving(tmp_path, settings(sim.url), **env) as served:
        served.toml.unlink()
        os.mkfifo(served.toml)
        async with RawClient.connect(served.said("listening")[0]["control"]) as client:
            await client.send(request("POST", "/admin/reload", key=ADMIN))
            answer = await client.read_response(timeout=20.0)
            assert answer.status == 422
            assert b"could not be read within 10 s" in answer.body
            await client.send(request("POST", "/admin/reload", key=ADMIN))
            assert b"are still being read" in (await client.read_response()).body
        with served.toml.open("w"):
            pass  # whoever reads it gets to its end
        served.toml.unlink()
        served.writes(settings(sim.url, "another"))
        await served.until("it is read again", lambda: served.hup() or served.said(READ))
        assert (await served.status("another"), await served.status()) == (200, 401)


async def test_what_needs_a_restart_is_named_until_it_is_written_as_it_holds(tmp_path: Path) -> None:
    waits = "some settings wait for a restart, and are as they were"
    env = {"FASTGW_CONTROL_LISTEN": "127.0.0.1:0", "ADMIN_KEY": ADMIN, "FASTGW_METRICS_CACHE_S": "0"}
    async with Simulator() as sim, serving(tmp_path, settings(sim.url), **env) as served:
        control = served.said("listening")[0]["control"]
        served.writes(settings(sim.url, unix_socket=f'"{tmp_path}/socket"', queue_size="7"))
        line = await served.again()
        assert line["changed"] == "queue_size"
        assert served.said(waits)[-1]["settings"] == "unix_socket"
        assert not (tmp_path / "socket").exists()
        metrics = await metrics_of(control)
        assert metrics["gateway_restart_pending"] == 1
        served.writes("quee_size = 1")
        await served.again(REFUSED)
        served.writes(settings(sim.url))
        await served.again()
        metrics = await metrics_of(control)
        assert metrics["gateway_restart_pending"] == 0
        assert metrics['gateway_reloads_total{result="ok"}'] == 2
        assert metrics['gateway_reloads_total{result="failed"}'] == 1
        assert metrics["gateway_config_loaded_timestamp_seconds"] > 1.7e9
        assert len(served.said(waits)) == 1


async def metrics_of(control: str) -> dict[str, float]:
    async with RawClient.connect(control) as client:
        await client.send(request("GET", "/metrics"))
        text = (await client.read_response()).body.decode()
    return {name: float(value) for name, value in re.findall(r"^([^#\s]\S*) (\S+)$", text, re.MULTILINE)}


async def test_a_key_of_the_store_takes_the_limits_that_are_the_settings(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    argv = [sys.executable, "-m", "fastgw", "keys", "--state-dir", state, "create", "--name", "ann"]
    made = subprocess.run(argv, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)  # noqa: ASYNC221
    found = re.search(r"fgw_[\w-]+", made.stdout)
    assert found is not None, made.stdout
    async with Simulator() as sim, serving(tmp_path, settings(sim.url, state_dir=f'"{state}"')) as served:
        assert await served.status(found[0]) == 200
        served.writes(settings(sim.url, state_dir=f'"{state}"', rate_limit_per_minute="1"))
        await served.again()
        await served.until("the store has told its keys", lambda: served.said("keys changed"))
        assert [await served.status(found[0]) for _ in range(2)] == [200, 429]
        served.writes(settings(sim.url, state_dir=f'"{tmp_path}/elsewhere"'))
        assert (await served.again())["changed"] == "rate_limit_per_minute"
        await served.until("the store has told its keys", lambda: len(served.said("keys changed")) == 2)
        assert await served.status(found[0]) == 200


async def test_the_operator_may_ask_for_it_and_is_told(tmp_path: Path) -> None:
    env = {"FASTGW_CONTROL_LISTEN": "127.0.0.1:0", "ADMIN_KEY": ADMIN}
    async with Simulator() as sim, serving(tmp_path, settings(sim.url), **env) as served:
        control = served.said("listening")[0]["control"]

        async def ask(method: str = "POST", key: str = ADMIN, body: bytes | None = None) -> tuple[int, Any]:
            async with RawClient.connect(control) as client:
                await client.send(request(method, "/admin/reload", key=key, body=body))
                answer = await client.read_response()
                return answer.status, json.loads(answer.body)

        served.writes(settings(sim.url, "another", compat='"rakka"'))
        status, document = await ask()
        assert (status, document["restart"]) == (200, ["compat"])
        assert "api_keys" in document["changed"]
        assert await served.status("another") == 200
        served.writes("nothing = 1")
        status, document = await ask()
        assert (status, document["problems"]) == (422, [f"{served.toml}:1: nothing: there is no such setting"])
        assert (await ask("GET"))[0] == 405
        assert (await ask(key="wrong"))[0] == 401
        assert (await ask(body=b"{}"))[0] == 400
        assert await served.status("another") == 200


async def test_several_at_once_are_one_after_the_other_and_the_last_state_wins(tmp_path: Path) -> None:
    async with Simulator() as sim, serving(tmp_path, settings(sim.url)) as served:
        for turn in range(20):
            served.writes(settings(sim.url, f"key-{turn}"))
            served.hup()
            await asyncio.sleep(0.002)
        for _ in range(200):
            if await served.status("key-19") == 200:
                break
            await asyncio.sleep(0.02)
        assert await served.status("key-19") == 200
        assert await served.status("key-18") == 401
        await served.until("the log says so", lambda: served.said(READ))
        assert len(served.said(READ)) <= 20
        assert not served.said(REFUSED)


async def test_one_that_comes_during_the_start_is_done_after_it(tmp_path: Path) -> None:
    code = "import os, signal, sys, fastgw.cli as cli; serve = cli._serve_until_stopped\n"
    code += "cli._serve_until_stopped = lambda argv: (os.kill(os.getpid(), signal.SIGHUP), serve(argv))[1]\n"
    code += "sys.exit(cli.main(sys.argv[1:]))"
    async with Simulator() as sim, serving(tmp_path, settings(sim.url), how=("-c", code)) as served:
        await served.until("it is read again", lambda: served.said(READ))
        assert await served.status() == 200


async def test_in_a_drain_it_is_not_read_again(tmp_path: Path) -> None:
    async with Simulator(SimConfig(itl_ms=20.0, output_tokens=60)) as sim, serving(tmp_path, settings(sim.url)) as served:
        async with RawClient.connect("127.0.0.1", served.port) as client:
            await client.send(chat("sim", stream=True, key=KEY))
            answer = await client.read_until(await client.read_head(), b"data: ")
            served.process.send_signal(signal.SIGTERM)
            await served.until("it drains", lambda: served.said("draining"))
            await served.again("the configuration is not read again: the gateway drains")
            assert (await client.read_body(answer)).complete
        await served.gone()
        assert served.process.returncode == 0


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")
async def test_a_drain_that_begins_while_it_is_read_goes_before(tmp_path: Path) -> None:
    env = {"FASTGW_CONTROL_LISTEN": "127.0.0.1:0", "ADMIN_KEY": ADMIN, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as mute,
        closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)) as manager,
    ):
        manager.bind(str(tmp_path / "notify"))
        slow = SimConfig(itl_ms=20.0, output_tokens=200)
        async with Simulator(slow) as sim, serving(tmp_path, settings(sim.url), **env) as served:
            async with (
                RawClient.connect("127.0.0.1", served.port) as client,
                RawClient.connect(served.said("listening")[0]["control"]) as operator,
            ):
                await client.send(chat("sim", stream=True, key=KEY))
                answer = await client.read_until(await client.read_head(), b"data: ")
                served.writes(settings(f"http://127.0.0.1:{mute.getsockname()[1]}"))  # is asked how it is, and says nothing
                await operator.send(request("POST", "/admin/reload", key=ADMIN))
                await asyncio.sleep(0.5)
                served.process.send_signal(signal.SIGTERM)
                assert (await operator.read_response()).status == 503
                assert (await client.read_body(answer)).complete
            await served.gone()
            assert not served.said(REFUSED)
        told = []
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(manager.recv(4096).partition(b"\n")[0])
        assert told == [b"READY=1", b"RELOADING=1", b"STOPPING=1"]


async def test_a_log_that_was_renamed_goes_on_in_a_new_file(tmp_path: Path) -> None:
    async with Simulator() as sim, serving(tmp_path, settings(sim.url)) as served:
        old = served.log.rename(tmp_path / "gateway.log.1")
        assert await served.status() == 200
        served.hup()
        await served.until("there is a new one", lambda: served.log.exists() and served.said(READ))
        assert served.said("the log goes on in a new file")[0]["path"] == str(served.log)
        assert await served.status() == 200
        await served.until("the request is in it", lambda: served.said("request"))
        assert b'"listening"' in old.read_bytes()
        await served.again()  # it is the same file now
        assert len(served.said("the log goes on in a new file")) == 1


async def test_the_level_of_the_log_and_whether_requests_are_in_it(tmp_path: Path) -> None:
    async with Simulator() as sim, serving(tmp_path, settings(sim.url)) as served:
        served.writes(settings(sim.url, access_log="false"))
        await served.again()
        before = len(served.said("request"))
        assert await served.status() == 200
        served.writes(settings(sim.url, log_level='"warning"', policy_header='"x-policy"'))  # (of which it warns)
        served.hup()
        warned = "policy_header is set, but policy_choices is not: no client can choose a policy by it"
        await served.until("it holds", lambda: served.said(warned))
        assert await served.status() == 200
        served.writes(settings(sim.url, quee="1"))
        await served.again(REFUSED)
        assert len(served.said("request")) == before, "their lines are of the level info"


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")
async def test_a_manager_hears_when_it_begins_and_how_it_ended(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)) as manager:
        manager.bind(str(tmp_path / "notify"))

        async def told() -> str:
            async with asyncio.timeout(10):
                return (await asyncio.get_running_loop().sock_recv(manager, 4096)).decode()

        async with Simulator() as sim, serving(tmp_path, settings(sim.url), NOTIFY_SOCKET=str(tmp_path / "notify")) as served:
            assert "READY=1" in await told()
            waits = settings(sim.url, unix_socket='"/x"')
            for text, status in ((waits, "a restart is due for unix_socket"), ("a = 1", "1 mistake")):
                served.writes(text)
                served.hup()
                begun = await told()
                assert begun.startswith("RELOADING=1\nMONOTONIC_USEC=")
                assert int(re.search(r"USEC=(\d+)", begun)[1]) > 0  # type: ignore[index]
                ended = await told()
                assert ended.startswith("READY=1\nSTATUS=")
                assert status in ended


@pytest.mark.parametrize("nohup", [False, True])
async def test_a_terminal_that_is_closed_ends_it_and_another_hup_does_not(tmp_path: Path, nohup: bool) -> None:
    """As `fastgw serve` in a window: the window is closed. Under nohup it lives on."""
    toml, log = tmp_path / "fastgw.toml", tmp_path / "gateway.log"
    toml.write_text("")
    ours, theirs = pty.openpty()
    command = [*(["nohup"] if nohup else []), sys.executable, "-m", "fastgw", "serve", "--config", str(toml), "--port", "0"]
    with log.open("ab") as file:
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [*command, "--log-format", "json"], cwd=tmp_path, env=environment(), stdin=theirs, stdout=file, stderr=file,
            start_new_session=True, preexec_fn=lambda: _own(theirs),
        )  # fmt: skip
    os.close(theirs)
    served = Reloaded(process, log)
    served.toml = toml
    try:
        await served.until("the gateway listens", lambda: process.poll() is not None or served.said("listening"))
        await served.again()
        os.close(ours)
        ours = -1
        if nohup:
            await served.until("it was read again", lambda: len(served.said(READ)) > 1)
            assert process.poll() is None
        else:
            await served.gone()
            assert process.returncode == 0
            assert served.said("stopped")
    finally:
        if ours >= 0:
            os.close(ours)
        process.kill()
        process.wait()


def _own(fd: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)


@pytest.mark.alone
async def test_twenty_times_under_load_nobody_is_refused_and_nothing_grows(tmp_path: Path) -> None:
    free = {"rate_limit_per_second": "0"}
    async with Simulator() as one, Simulator() as two, serving(tmp_path, settings(one.url, **free)) as served:
        done = asyncio.Event()
        statuses: list[int] = []

        async def load() -> None:
            async with RawClient.connect("127.0.0.1", served.port) as client:
                while not done.is_set():
                    await client.send(chat("sim", key=KEY, max_tokens=2))
                    statuses.append((await client.read_response()).status)

        def held() -> tuple[int, int]:
            root = Path(f"/proc/{served.process.pid}")
            return len(os.listdir(root / "fd")), int((root / "statm").read_text().split()[1]) * 4096

        tasks = [asyncio.create_task(load()) for _ in range(8)]
        first = (0, 0)
        for turn in range(25):
            urls = (one.url, two.url)
            served.writes(settings(urls[turn % 2], max_concurrent=str(turn % 3 * 50), queue_size=str(turn + 9), **free))
            assert "queue_size" in (await served.again())["changed"]
            if turn == 4:
                first = held()
        last = held()
        done.set()
        await asyncio.gather(*tasks)
        assert set(statuses) == {200}
        assert len(statuses) > 100
        assert last[0] <= first[0] + 16  # connections of the load to one engine and the other
        assert last[1] <= first[1] + (2 << 20), f"{first[1]} to {last[1]} bytes"
