"""K. Process: signals, the drain, and starts that must fail.

The gateway runs as people run it, ``python -m fastgw serve``, in a process of its own; the engine is a simulator in this
one. What the kernel does with a connection counts as much as what is said on it.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from fastgw.sim import SimConfig, Simulator
from tests.cli.test_cli import environment, run
from tests.support.client import RawClient, RawResponse, chat, parse_head, request

LATE_S = 1.0  # the rule: gone one second after the drain
SLACK_S = 1.0  # for a shared machine


class Served:
    """One ``fastgw serve`` process, its address and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self.port = 0

    def lines(self) -> list[dict[str, Any]]:
        """The log so far, whole lines only."""
        return [json.loads(line) for line in self.log.read_bytes().split(b"\n")[:-1]]

    def said(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["message"] == message]

    async def until(self, what: str, condition: Callable[[], Any], timeout_s: float = 15.0) -> float:
        """Wait for ``condition()``; how long that took."""
        begin = monotonic()
        while not condition():
            assert monotonic() - begin < timeout_s, f"not within {timeout_s:g} s: {what}\n{self.log.read_text()[-2000:]}"
            await asyncio.sleep(0.01)
        return monotonic() - begin

    async def gone(self, timeout_s: float = 15.0) -> float:
        return await self.until("the process ends", lambda: self.process.poll() is not None, timeout_s)

    async def refuses(self) -> bool:
        """Whether who comes now is answered that it ends."""
        async with RawClient.connect("127.0.0.1", self.port) as client:
            await client.send(chat("sim"))
            return (await client.read_response()).status == 503


@asynccontextmanager
async def serve(
    tmp_path: Path, engine: str, *flags: str, how: Sequence[str] = ("-m", "fastgw"), **env: str
) -> AsyncIterator[Served]:
    """A process that listens; killed at the end if it still lives."""
    log = tmp_path / "gateway.log"
    argv = ["serve", "--port", "0", "--engine", engine, "--log-format", "json", *flags]
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [sys.executable, *how, *argv], cwd=tmp_path, env=environment(**env), stdout=file, stderr=file
        )
    served = Served(process, log)
    try:
        await served.until("the gateway listens", lambda: process.poll() is not None or served.said("listening"))
        assert process.poll() is None, log.read_text()
        served.port = int(served.said("listening")[0]["urls"].split()[0].rpartition(":")[2])
        yield served
    finally:
        process.kill()
        process.wait()


class Stream(asyncio.Protocol):
    """A client of one stream that keeps all it gets: a thousand of them cost little."""

    def __init__(self, data: bytes) -> None:
        self._request = data
        self.received = bytearray()
        self.ended = asyncio.get_running_loop().create_future()
        self.how = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.how = "fin" if exc is None else "reset"
        if not self.ended.done():
            self.ended.set_result(None)

    def answer(self) -> RawResponse:
        """What came, read strictly."""
        head, blank, rest = bytes(self.received).partition(b"\r\n\r\n")
        found = parse_head(head + blank)
        found.feed(bytearray(rest))
        return found

    def complete(self) -> bool:
        return self.received.endswith(b"\r\n0\r\n\r\n")


async def open_streams(port: int, requests: list[bytes]) -> list[Stream]:
    """All of them under way: each has its first token."""
    loop = asyncio.get_running_loop()
    streams: list[Stream] = []
    for at in range(0, len(requests), 50):
        made = await asyncio.gather(
            *(loop.create_connection(lambda data=data: Stream(data), "127.0.0.1", port) for data in requests[at : at + 50])
        )  # type: ignore[misc]
        streams += [stream for _, stream in made]
    end = monotonic() + 15
    while not all(b"data: " in stream.received for stream in streams):
        assert monotonic() < end, "the streams did not begin"
        await asyncio.sleep(0.02)
    return streams


def judge_cut(stream: Stream, whole: bytes, code: str = "shutting_down") -> None:
    """A prefix of the engine's own bytes, one typed event, and an end that nobody takes for a clean one."""
    assert not stream.complete(), "a cut stream got its last chunk"
    answer = stream.answer()
    assert not answer.complete
    body, mark, event = answer.body.rpartition(b"data: ")
    assert mark
    error = json.loads(event)["error"]
    assert (error["code"], set(error)) == (code, {"message", "type", "param", "code"})
    assert b"[DONE]" not in answer.body
    assert whole.startswith(body), "what came before the event is not what the engine sent"
    assert len(body) < len(whole)


PROMPTS = 40


@pytest.mark.together
@pytest.mark.deadline_s(60)
class TestK1Sigterm:
    """K1: not ready first, new work is 503, streams that end in time are byte-exact, the rest get the typed event and an
    abort; exit 0 within a second of the drain; a second signal ends it at once."""

    @pytest.mark.once
    @pytest.mark.quiet
    async def test_K1_sigterm_with_many_live_streams(self, tmp_path: Path) -> None:
        count, drain_s = 1600, 4.0
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))  # clients and engine are both here
        config = SimConfig(itl_ms=200.0, ttft_ms=20.0, slots=0, max_waiting=0)
        async with Simulator(config) as sim:

            def body(number: int, **more: Any) -> bytes:
                kind = number % 2
                tokens = 400 if kind else 12 + number % 4
                return chat("sim", stream=True, content=f"prompt {number}", max_tokens=tokens, **more)

            whole: list[bytes] = []
            for number in range(PROMPTS):  # what the engine says to whoever asks it directly
                async with RawClient.connect(sim.url) as client:
                    await client.send(body(number, headers=[("x-sim-fault", "itl-ms=0")]))
                    whole.append((await client.read_response()).body)
            flags = ("--drain-timeout-s", f"{drain_s:g}", "--engine-max-connections", "5000", "--rate-limit-per-second", "0")
            async with serve(tmp_path, sim.url, *flags) as served:
                streams = await open_streams(served.port, [body(number % PROMPTS) for number in range(count)])
                ended_before = sum(stream.complete() for stream in streams)
                assert ended_before < count // 4, "too slow a machine: the short streams ended before the signal"
                begin = monotonic()
                served.process.send_signal(signal.SIGTERM)
                while not await served.refuses():
                    assert monotonic() - begin < LATE_S + SLACK_S, "new work is still taken"
                assert served.process.poll() is None, "live streams were not waited for"
                await served.gone()
                assert drain_s - 0.1 <= monotonic() - begin <= drain_s + LATE_S + SLACK_S
                assert served.process.returncode == 0
                await asyncio.wait_for(asyncio.gather(*(stream.ended for stream in streams)), 5)
                for number, stream in enumerate(streams):
                    expected = whole[number % PROMPTS]
                    if number % 2:
                        judge_cut(stream, expected)
                    else:
                        answer = stream.answer()
                        assert (answer.complete, answer.body == expected) == (True, True), number
                await served.until("the engine is idle", lambda: sim.state.running == 0)
                records = [line for line in served.said("request") if line["status"] != 503]
                assert len(records) == count, "each exchange leaves exactly one access record"
                assert sum(record["outcome"] == "ok" for record in records) == count // 2
                assert {record.get("error") for record in records if record["outcome"] != "ok"} == {"shutting_down"}
                assert served.said("stopped")
                assert not [line for line in served.lines() if line["level"] == "error"]

    @pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
    async def test_K1_a_second_signal_ends_it_at_once(self, tmp_path: Path, second: signal.Signals) -> None:
        async with Simulator(SimConfig(itl_ms=50.0, slots=0)) as sim, serve(tmp_path, sim.url) as served:
            async with RawClient.connect(sim.url) as client:
                await client.send(chat("sim", stream=True, max_tokens=3000, headers=[("x-sim-fault", "itl-ms=0")]))
                whole = (await client.read_response(20)).body
            streams = await open_streams(served.port, [chat("sim", stream=True, max_tokens=3000)] * 100)
            served.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.5)
            assert served.process.poll() is None, "the first signal did not wait for live streams"
            assert not any(stream.ended.done() for stream in streams)
            served.process.send_signal(second)
            assert await served.gone() < LATE_S + SLACK_S
            assert served.process.returncode == 0
            await asyncio.wait_for(asyncio.gather(*(stream.ended for stream in streams)), 5)
            for stream in streams:
                judge_cut(stream, whole)
            await served.until("the engine is idle", lambda: sim.state.running == 0)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_K1_nothing_under_way_means_no_wait(self, tmp_path: Path, number: signal.Signals) -> None:
        async with Simulator() as sim, serve(tmp_path, sim.url, "--drain-timeout-s", "30") as served:
            idle = await RawClient.connect("127.0.0.1", served.port)
            await idle.send(chat("sim"))
            assert (await idle.read_response()).status == 200
            silent = await RawClient.connect("127.0.0.1", served.port)
            await asyncio.sleep(0.05)
            served.process.send_signal(number)
            for client in (idle, silent):
                assert await client.read_until_closed() == (b"", "fin")
                client.close()
            assert await served.gone() < LATE_S + SLACK_S
            assert served.process.returncode == 0

    async def test_K1_the_last_stream_ends_the_drain(self, tmp_path: Path) -> None:
        async with Simulator(SimConfig(itl_ms=50.0)) as sim, serve(tmp_path, sim.url, "--drain-timeout-s", "30") as served:
            streams = await open_streams(served.port, [chat("sim", stream=True, max_tokens=tokens) for tokens in (5, 15, 25)])
            served.process.send_signal(signal.SIGTERM)
            assert 0.3 < await served.gone() < 1.5 + LATE_S + SLACK_S
            assert all(stream.complete() and b"[DONE]" in stream.received for stream in streams)

    async def test_K1_a_drain_of_zero_aborts_at_once(self, tmp_path: Path) -> None:
        async with Simulator(SimConfig(itl_ms=20.0)) as sim, serve(tmp_path, sim.url, "--drain-timeout-s", "0") as served:
            (stream,) = await open_streams(served.port, [chat("sim", stream=True, max_tokens=3000)])
            served.process.send_signal(signal.SIGTERM)
            assert await served.gone() < LATE_S + SLACK_S
            await asyncio.wait_for(stream.ended, 2)
            assert b'"code":"shutting_down"' in stream.received
            assert not stream.complete()

    async def test_K1_a_plain_answer_that_never_comes_is_a_503(self, tmp_path: Path) -> None:
        async with Simulator() as sim, serve(tmp_path, sim.url, "--drain-timeout-s", "0.5") as served:
            async with RawClient.connect("127.0.0.1", served.port) as client:
                await client.send(chat("sim", headers=[("x-sim-fault", "stall-before")]))
                await served.until("the engine has it", lambda: sim.requests.to("/v1/chat/completions"))
                served.process.send_signal(signal.SIGTERM)
                answer = await client.read_response()
                assert (answer.status, answer.error["code"]) == (503, "shutting_down")
                assert answer.header("connection") == "close"
            assert await served.gone() < 1.0 + LATE_S + SLACK_S
            assert served.process.returncode == 0
            assert [line["error"] for line in served.said("request")] == ["shutting_down"], "the code that the client was told"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_K1_a_signal_during_the_start(self, tmp_path: Path, number: signal.Signals) -> None:
        """From the moment that somebody can connect, a signal is a drain and not a death."""
        path = tmp_path / "gateway.sock"
        argv = ["serve", "--port", "0", "--unix-socket", str(path), "--engine", "http://no-such-host.invalid:1"]
        for _ in range(3):
            process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [sys.executable, "-m", "fastgw", *argv],
                cwd=tmp_path,
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            served = Served(process, tmp_path / "none")
            (tmp_path / "none").touch()
            try:
                await served.until("the socket is there", path.exists)
                process.send_signal(number)
                await served.gone()
                assert process.returncode == 0
                assert not path.exists()
            finally:
                process.kill()
                process.wait()


class TestK4Starts:
    """K4: a start that cannot succeed says why in one clear line, exits with another code than 0, and leaves nothing."""

    def told(self, done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
        assert (done.returncode, done.stdout) == (code, "")
        assert "Traceback" not in done.stderr
        for part in parts:
            assert part in done.stderr
        assert done.stderr.startswith("fastgw")

    def one_line(self, done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
        self.told(done, code, *parts)
        assert len(done.stderr.splitlines()) == 1

    def test_K4_the_port_is_taken(self, tmp_path: Path) -> None:
        path = tmp_path / "gateway.sock"
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            done = run(tmp_path, "serve", "--engine", "http://127.0.0.1:1", "--port", port, "--unix-socket", str(path))
        self.one_line(done, 1, f"127.0.0.1:{port}", "in use")
        assert not path.exists(), "the Unix socket was made although the start failed"

    @pytest.mark.parametrize("where", ["no-such-folder/g.sock", "a-file", "in-use.sock"])
    def test_K4_the_unix_socket_cannot_be_had(self, tmp_path: Path, where: str) -> None:
        (tmp_path / "a-file").write_text("kept")
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(tmp_path / "in-use.sock"))
            other.listen()
            done = run(
                tmp_path, "serve", "--engine", "http://127.0.0.1:1", "--port", "0", "--unix-socket", str(tmp_path / where)
            )
        self.one_line(done, 1, where)
        assert (tmp_path / "a-file").read_text() == "kept"

    @pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
    def test_K4_an_address_that_is_not_ours(self, tmp_path: Path, host: str) -> None:
        argv = ("serve", "--engine", "http://127.0.0.1:1", "--host", host, "--allow-anonymous", "--port", "0")
        self.one_line(run(tmp_path, *argv), 1, host)

    @pytest.mark.parametrize(("text", "part"), [
        ("port = \n", "bad.toml:1"), ("[[engines]]\nurl = 5\n", "bad.toml:2"), ("prot = 80\n", "did you mean port"),
        ('policy = "fastest"\n', "round_robin"), ("port = 70000\n", "65535"),
    ])  # fmt: skip
    def test_K4_bad_configuration(self, tmp_path: Path, text: str, part: str) -> None:
        (tmp_path / "bad.toml").write_text(text)
        self.told(run(tmp_path, "serve", "--config", "bad.toml"), 2, "bad.toml", part)

    def test_K4_a_missing_configuration_file(self, tmp_path: Path) -> None:
        self.told(run(tmp_path, "serve", "--config", "not-there.toml"), 2, "not-there.toml")

    def test_K4_open_to_others_without_a_key(self, tmp_path: Path) -> None:
        done = run(tmp_path, "serve", "--engine", "http://127.0.0.1:1", "--host", "0.0.0.0", "--port", "0")
        self.told(done, 2, "allow_anonymous", "GATEWAY_API_KEYS")

    @pytest.mark.parametrize(("make", "part"), [
        (lambda path: None, "No such file"), (lambda path: path.mkdir(), "directory"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "UTF-8"), (lambda path: path.write_text("# none\n"), "holds no key"),
    ])  # fmt: skip
    def test_K4_a_key_file_that_cannot_be_read(self, tmp_path: Path, make: Callable[[Path], Any], part: str) -> None:
        path = tmp_path / "keys"
        make(path)
        done = run(tmp_path, "serve", "--engine", "http://127.0.0.1:1", "--port", "0", "--api-keys-file", str(path))
        self.told(done, 2, "--api-keys-file", part)

    @pytest.mark.parametrize("option", ["--prot", "--engines", "--Port", "-p"])
    def test_K4_an_unknown_option(self, tmp_path: Path, option: str) -> None:
        self.one_line(run(tmp_path, "serve", option, "1"), 2, option)

    async def test_K4_a_key_file_that_others_can_read_is_a_warning(self, tmp_path: Path) -> None:
        keys = tmp_path / "keys"
        keys.write_text("# tenants\nsk-canary-1\n\nsk-canary-2\n")
        os.chmod(keys, 0o644)
        async with Simulator() as sim, serve(tmp_path, sim.url, "--api-keys-file", str(keys)) as served:
            (warning,) = [line for line in served.lines() if line["level"] == "warning" and "keys" in line["message"]]
            assert "0644" in warning["message"]
            async with RawClient.connect("127.0.0.1", served.port) as client:
                for key, status in (("sk-canary-2", 200), ("sk-canary-3", 401)):
                    await client.send(chat("sim", key=key))
                    assert (await client.read_response()).status == status
            command = Path(f"/proc/{served.process.pid}/cmdline").read_bytes()  # noqa: ASYNC240 - no disk behind it
            served.process.send_signal(signal.SIGTERM)
            await served.gone()
            assert b"sk-canary" not in served.log.read_bytes() + command

    async def test_K4_after_a_failed_start_the_next_one_succeeds(self, tmp_path: Path) -> None:
        """Nothing of the failed one stands in its way."""
        path = tmp_path / "gateway.sock"
        failed = await asyncio.to_thread(
            run, tmp_path, "serve", "--engine", "http://127.0.0.1:1", "--host", "192.0.2.1", "--allow-anonymous", "--port", "0",
            "--unix-socket", str(path),
        )  # fmt: skip
        assert failed.returncode == 1
        async with Simulator() as sim, serve(tmp_path, sim.url, "--unix-socket", str(path)):
            client = await RawClient.connect(str(path))
            await client.send(request("GET", "/liveness"))
            assert (await client.read_response()).status == 200
            client.close()
