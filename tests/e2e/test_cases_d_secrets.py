"""Keys and prompts stay nowhere, over real sockets: D16."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.observe.logs import access_fields, as_json, as_text
from fastgw.sim import SimConfig, Simulator
from tests.cli.test_cli import environment
from tests.e2e.identity import CHAT, FORM_TYPE, UPLOADS, form
from tests.support.client import RawClient, chat, request
from tests.support.gateway import running


class Canaries:
    """Words that occur nowhere else, one for each thing that must stay where it is."""

    def __init__(self) -> None:
        self.key, self.wrong_key, self.engine_key, self.admin_key = (f"sk-canary{secrets.token_hex(8)}" for _ in range(4))
        self.prompt, self.answer, self.cookie, self.query = (f"canary{secrets.token_hex(8)}" for _ in range(4))

    def all(self) -> list[str]:
        return list(vars(self).values())

    def assert_absent(self, text: str, where: str) -> None:
        for name, word in vars(self).items():
            assert word not in text, f"the {name} canary is in {where}"

    def chat(self, **options: Any) -> bytes:
        options = {"key": self.key, "content": self.prompt, "path": f"{CHAT}?key={self.query}", **options}
        headers = [("Cookie", f"session={self.cookie}"), ("X-Title", self.prompt), *options.pop("headers", ())]
        return chat(options.pop("model", "m"), headers=headers, **options)


class Outcomes:
    """Every way in which a request can end; what fastgw itself says must not repeat a canary. ``count``: exchanges so far."""

    def __init__(self, port: int, canary: Canaries) -> None:
        self.port = port
        self.canary = canary
        self.count = 0

    async def one(self, data: bytes, status: int, *, own: bool = True) -> None:
        async with RawClient.connect("127.0.0.1", self.port) as client:
            await client.send(data)
            answer = await client.read_response()
            assert answer.status == status, answer.body
            if own:
                self.canary.assert_absent((answer.raw_head + answer.body).decode("latin-1"), f"a {status}")
            self.count += 1

    def fault(self, text: str, **options: Any) -> bytes:
        return self.canary.chat(headers=[("X-Sim-Fault", text)], **options)

    async def served(self) -> None:
        canary, one = self.canary, self.one
        said = json.dumps({"choices": [{"message": {"content": canary.answer}}]}).encode()
        answer = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        for status in (b"200 OK", b"400 Bad Request", b"429 Too Many Requests", b"500 Internal Server Error"):
            raw = base64.b64encode(answer % (status, len(said), said)).decode().replace("=", "%3D").replace("+", "%2B")
            await one(self.fault(f"raw={raw}"), int(status[:3]), own=False)
        await one(canary.chat(), 200, own=False)
        await one(canary.chat(stream=True), 200, own=False)
        await one(canary.chat(chunked=(7,)), 200, own=False)
        upload = form("m").replace(b"RIFF", canary.prompt.encode())
        await one(request("POST", UPLOADS, key=canary.key, headers=[FORM_TYPE], body=upload), 200, own=False)
        await one(request("GET", f"/v1/models?key={canary.key}", headers=[("x-api-key", canary.key)]), 200)

    async def refused(self) -> None:
        canary, one = self.canary, self.one
        await one(canary.chat(key=canary.wrong_key), 401)
        await one(canary.chat(key=None), 401)
        await one(canary.chat(body=b'{"model":"m","messages":"' + canary.prompt.encode()), 400)
        await one(canary.chat(body=b'{"model":"m","messages":"' + canary.prompt.encode() + b'\xff"}'), 400)
        await one(canary.chat(body=b'{"model":"m","stream":"%b"}' % canary.prompt.encode()), 400)
        await one(canary.chat(body=b'{"model":"m","%b":NaN}' % canary.prompt.encode()), 400)
        await one(canary.chat(body=b'{"model":"m","stream":true,"stream":"%b"}' % canary.prompt.encode()), 400)
        await one(canary.chat(body=b'{"model":{"%b":1}}' % canary.prompt.encode()), 400)
        await one(canary.chat(model="nobody"), 404)
        await one(canary.chat(path="/v1/nothing"), 404)
        await one(canary.chat(content=canary.prompt * 1000), 413)
        await one(canary.chat(content=canary.prompt * 1000, chunked=(999,)), 413)
        await one(canary.chat().replace(b"application/json", b"text/" + canary.prompt.encode()), 415)
        await one(canary.chat(headers=[("X-Long", canary.prompt * 2000)]), 431)
        await one(canary.chat(headers=[("Transfer-Encoding", canary.key)]), 400)
        await one(canary.chat(headers=[("X-Bad", canary.key + "\0")]), 400)
        await one(canary.chat(headers=[("Host", canary.key)]), 400)
        await one(request(canary.prompt[:6].upper(), "/", key=canary.key), 501)
        chunked = request("POST", CHAT, key=canary.key, headers=[("Transfer-Encoding", "chunked")])
        await one(chunked + canary.prompt.encode() + b"\r\n", 400)
        await one(canary.chat()[:-9], 408)
        await one(request("POST", UPLOADS, key=canary.key, headers=[FORM_TYPE], body=canary.prompt.encode() * 99), 400)
        await one(request("POST", UPLOADS, key=canary.key, headers=[FORM_TYPE], body=form("m") + canary.prompt.encode()), 400)

    async def failed(self) -> None:
        """An engine fails before it answers, with words of its own."""
        canary = self.canary
        for text, status in (
            ("garbage", 502),
            ("reset", 502),
            (f"status-line={canary.answer}", 502),
            (f"header={canary.answer}%0D", 502),
            (f"header=transfer-encoding:{canary.answer}", 502),
            ("stall-before", 504),
        ):
            await self.one(self.fault(text), status)

    async def broken_off(self) -> None:
        """The engine breaks off in the middle; the client leaves."""
        canary = self.canary
        broken = base64.b64encode(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            + canary.answer.encode()
            + b"\r\n"
        )
        for text in (
            "reset-after-events=2",
            "half-event",
            "bad-chunk,after-events=1",
            "stall-after-events=1",
            "error-event",
            f"raw={broken.decode().replace('=', '%3D')}",
        ):
            async with RawClient.connect("127.0.0.1", self.port) as client:
                await client.send(self.fault(text, stream=True, max_tokens=9))
                with_error = await client.read_response()
                assert with_error.status in (200, 502)
                self.count += 1
        for waits_for in (b"data: ", None):
            async with RawClient.connect("127.0.0.1", self.port) as client:
                await client.send(self.fault("itl-ms=50" if waits_for else "stall-before", stream=True, max_tokens=50))
                if waits_for:
                    await client.read_until(await client.read_head(), waits_for)
                else:
                    await asyncio.sleep(0.05)
                client.reset()
                self.count += 1


async def all_outcomes(port: int, canary: Canaries) -> int:
    """All of :class:`Outcomes`; how many exchanges it were."""
    outcomes = Outcomes(port, canary)
    await outcomes.served()
    await outcomes.refused()
    await outcomes.failed()
    await outcomes.broken_off()
    return outcomes.count


D16_SETTINGS: dict[str, Any] = {
    "cb_failure_threshold": 0,  # one engine gets all the faults
    "max_body_bytes": 8192,
    "body_timeout_s": 0.3,
    "first_byte_timeout_s": 0.3,
    "between_bytes_timeout_s": 0.3,
    "log_level": "debug",
}


@pytest.mark.together
class TestD16:
    """Keys and prompts pass through and stay nowhere: not in logs, records, events, errors, the process list or a file."""

    async def test_D16_records_events_and_errors(self) -> None:
        canary = Canaries()
        async with Simulator(SimConfig(any_model=True, output_tokens=4)) as sim:
            engine = EngineConfig(url=sim.url, api_key=canary.engine_key, models=("m",))
            settings = {**D16_SETTINGS, "api_keys": (canary.key,), "admin_key": canary.admin_key}
            async with running([engine], **settings) as gw:
                count = await all_outcomes(gw.port, canary)
                await gw.idle()
                assert len(gw.records) == count
                assert {one["outcome"] for one in gw.records} >= {"ok", "error", "client_closed", "truncated"}
                canary.assert_absent(repr(gw.raw_records), "a record")
                canary.assert_absent(repr(gw.events.lines), "an event")
                canary.assert_absent(repr(gw.gateway.config) + repr(gw.gateway.core) + repr(gw.stats.snapshot()), "a repr")
                for record in gw.raw_records:
                    canary.assert_absent((as_json(access_fields(record)) + as_text(access_fields(record))).decode(), "a line")
                key_id = sha256(canary.key.encode()).hexdigest()[:12]
                assert {one["key_id"] for one in gw.records} == {"", key_id}

    @pytest.mark.parametrize("log_format", ["json", "text"])
    @pytest.mark.deadline_s(60)
    async def test_D16_a_process_and_its_output(self, log_format: str, tmp_path: Path) -> None:
        canary = Canaries()
        (tmp_path / "keys.txt").write_text(canary.key + "\n")
        (tmp_path / "keys.txt").chmod(0o600)
        work = tmp_path / "work"
        work.mkdir()
        async with Simulator(SimConfig(any_model=True, output_tokens=4)) as sim:
            env = environment(
                GATEWAY_API_KEYS=f"{canary.key},sk-another",
                FASTGW_API_KEYS_FILE=str(tmp_path / "keys.txt"),
                BACKENDS=f"{sim.url}|{canary.engine_key}|m",
                ADMIN_KEY=canary.admin_key,
                FASTGW_LOG_FORMAT=log_format,
                **{f"FASTGW_{name.upper()}": str(value) for name, value in D16_SETTINGS.items()},
            )
            process = serve(work, env, tmp_path / "stderr")
            try:
                port = await listening(tmp_path / "stderr", process)
                count = await all_outcomes(port, canary)
                canary.assert_absent(text_of(f"/proc/{process.pid}/cmdline"), "the process list")
                limits = text_of(f"/proc/{process.pid}/limits")
                assert re.search(r"Max core file size +0 ", limits), "a core file would hold keys and prompts"
                assert process.poll() is None
            finally:
                process.send_signal(signal.SIGTERM)
                returncode = await asyncio.to_thread(process.wait, 20)
            assert returncode == 0
        told = text_of(tmp_path / "stderr")
        canary.assert_absent(told, "the log")
        assert os.listdir(work) == [], "nothing was written elsewhere"
        if log_format == "json":
            lines = [json.loads(line) for line in told.splitlines()]
            assert len([line for line in lines if line["message"] == "request"]) == count
        else:
            assert all(line.isprintable() for line in told.splitlines())
            assert len(told.splitlines()) > count

    @pytest.mark.parametrize("command", ["check", "serve"])
    def test_D16_a_mistake_in_the_configuration_shows_no_key(self, command: str, tmp_path: Path) -> None:
        canary = Canaries()
        env = environment(
            GATEWAY_API_KEYS=f"{canary.key},with blank {canary.wrong_key}",
            VLLM_URL=f"http://user:{canary.engine_key}@127.0.0.1:1",
            ADMIN_KEY=canary.admin_key,
            GATEWAY_PORT="many",
        )
        done = subprocess.run(
            [sys.executable, "-m", "fastgw", command],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 2
        canary.assert_absent(done.stdout + done.stderr, "what it says about its configuration")

    def test_D16_check_shows_no_key(self, tmp_path: Path) -> None:
        canary = Canaries()
        env = environment(
            GATEWAY_API_KEYS=canary.key, BACKENDS=f"http://127.0.0.1:1|{canary.engine_key}|m", ADMIN_KEY=canary.admin_key
        )
        done = subprocess.run(
            [sys.executable, "-m", "fastgw", "check"],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        canary.assert_absent(done.stdout + done.stderr, "the summary")


def text_of(path: str | Path) -> str:
    return Path(path).read_text()


def serve(folder: Path, env: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """``fastgw serve`` as a process of its own, on a free port, with all it says in ``log``."""
    with open(log, "wb") as output:
        command = [sys.executable, "-m", "fastgw", "serve", "--port", "0"]
        return subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output)


async def listening(log: Path, process: subprocess.Popen[bytes]) -> int:
    """The port of a gateway that was just started, read from its log."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = re.search(r"listening.*?http://127\.0\.0\.1:(\d+)", text_of(log))
        if found is not None:
            return int(found[1])
        assert process.poll() is None, text_of(log)
        await asyncio.sleep(0.02)
    pytest.fail(f"it does not listen: {text_of(log)}")
