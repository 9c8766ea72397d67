"""What an error tells, and where a redirect leads, over real sockets: D13, D14."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.sim import SimConfig, Simulator
from fastgw.sim.scripted import ScriptedConnection, ScriptedEngine
from tests.e2e.identity import CHAT, ENGINE_KEY, FORM_TYPE, KEY, UPLOADS, answering, ask, guarded
from tests.support.client import RawResponse, chat, request
from tests.support.gateway import running

PROMPT = "my-prompt-is-a-secret"
# What no error may say: an address, a URL, a path, a stack, an exception, an operating system's words.
INTERNALS = re.compile(
    rb"https?:|unix:|127\.0\.0\.1|localhost|::1|[a-z]+\.py\b|/(?:usr|tmp|home|root|opt|var|proc)/|site-packages|traceback|exception|errno|0x[0-9a-f]{6}"
    rb"|asyncio|uvloop|httptools|msgspec|refused|reset by peer|broken pipe|line \d+|sim-|fastgw[/.]|<[a-z]",
    re.IGNORECASE,
)


def assert_tells_nothing(answer: RawResponse, *secrets_: str) -> None:
    text = answer.raw_head + answer.body
    assert not INTERNALS.search(answer.body), answer.body
    assert not INTERNALS.search(re.sub(rb"(?im)^(date|x-request-id|server):.*$", b"", answer.raw_head)), answer.raw_head
    for secret in (KEY, ENGINE_KEY, PROMPT, *secrets_):
        assert secret.encode() not in text


def ire(**options: Any) -> bytes:
    return chat("m", key=KEY, content=PROMPT, **options)


REFUSALS: dict[str, tuple[int, bytes]] = {
    "400-json": (400, chat(key=KEY, body=b'{"model":"m","messages":"' + PROMPT.encode())),
    "400-utf-8": (400, chat(key=KEY, body=b'{"model":"m","messages":"' + PROMPT.encode() + b'\xff"}')),
    "400-missing-model": (400, chat(key=KEY, body=b'{"messages":"%b"}' % PROMPT.encode())),
    "400-model-type": (400, chat(key=KEY, body=b'{"model":["%b"]}' % PROMPT.encode())),
    "400-parameter": (400, chat(key=KEY, body=b'{"model":"m","n":"%b"}' % PROMPT.encode())),
    "400-duplicate": (400, chat(key=KEY, body=b'{"model":"m","model":"%b"}' % PROMPT.encode())),
    "400-head": (400, ire().replace(b"Host: localhost", b"Host: " + PROMPT.encode() + b" x")),
    "400-name": (400, ire(headers=[(f"a {PROMPT}", "x")])),
    "400-value": (400, ire().replace(b"\r\n", b"\r\nX: " + PROMPT.encode() + b"\0\r\n", 1)),
    "400-framing": (400, ire(headers=[("Transfer-Encoding", "chunked")])),
    "400-chunk": (400, request("POST", CHAT, key=KEY, headers=[("Transfer-Encoding", "chunked")]) + PROMPT.encode() + b"\r\n"),
    "400-multipart": (
        400,
        request("POST", UPLOADS, key=KEY, headers=[FORM_TYPE], body=PROMPT.encode() * 999),
    ),
    "401": (401, chat("m", key="sk-wrong-" + PROMPT, content=PROMPT)),
    "404-path": (404, ire(path=f"/v1/{PROMPT}")),
    "404-model": (404, chat(PROMPT, key=KEY)),
    "404-models": (404, request("GET", f"/v1/models/{PROMPT}", key=KEY)),
    "405": (405, request("PUT", CHAT, key=KEY, body=PROMPT.encode())),
    "411": (411, request("POST", CHAT, key=KEY)),
    "413": (413, chat(key=KEY, body=PROMPT.encode() * 500)),
    "413-chunked": (413, chat(key=KEY, body=PROMPT.encode() * 500, chunked=(100,))),
    "415": (415, request("POST", CHAT, key=KEY, headers=[("Content-Type", PROMPT)], body=PROMPT.encode())),
    "417": (417, ire(headers=[("Expect", PROMPT)])),
    "431": (431, ire(headers=[("X-Long", PROMPT * 2000)])),
    "431-count": (431, ire(headers=[(f"X-{number}", PROMPT) for number in range(150)])),
    "501-method": (501, request(PROMPT[:2].upper() + "FOO", CHAT, key=KEY)),
    "501-coding": (501, ire(headers=[("Transfer-Encoding", "gzip")]).replace(b"Content-Length", b"X-Length")),
    "505": (505, ire(version="HTTP/3.0")),
}
# Faults of an engine: what it does → what the client is told.
FAULTS = {
    "502-garbage": (502, "garbage"),
    "502-close": (502, "close"),
    "502-reset": (502, "reset"),
    "502-status-line": (502, "status-line=HTTP/1.1%20999%20secret-of-the-engine"),
    "502-head": (502, "head=300000"),
    "502-101": (502, "unsolicited-101"),
    "504": (504, "stall-before"),
}


@pytest.mark.together
class TestD13:
    """No 4xx or 5xx tells a URL, an address, a path, a stack, a key or a prompt."""

    @pytest.mark.parametrize("name", REFUSALS)
    async def test_D13_refusals(self, name: str) -> None:
        status, data = REFUSALS[name]
        async with guarded(max_body_bytes=4096) as (_, _, client):
            answer = await ask(client, data)
            assert answer.status == status
            assert_tells_nothing(answer)

    async def test_D13_408(self) -> None:
        async with guarded(body_timeout_s=0.2, head_timeout_s=0.3) as (gw, _, client):
            answer = await ask(client, ire()[:-5])
            assert answer.status == 408
            assert_tells_nothing(answer)
            async with await gw.client() as other:
                answer = await ask(other, ire()[:60])
                assert answer.status == 408
                assert_tells_nothing(answer)

    @pytest.mark.parametrize("compat", ["", "minisgl", "rakka"])
    @pytest.mark.parametrize("name", FAULTS)
    async def test_D13_engine_faults(self, name: str, compat: str) -> None:
        status, fault = FAULTS[name]
        if compat and status == 504:
            status = {"minisgl": 502, "rakka": 400}[compat]
        async with guarded(first_byte_timeout_s=0.2, compat=compat) as (gw, sim, client):
            answer = await ask(client, ire(headers=[("X-Sim-Fault", fault)]))
            assert answer.status == status
            assert_tells_nothing(answer, sim.url, str(sim.port), "secret-of-the-engine")
            assert gw.records[0]["detail"], "the operator is told"

    @pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
    @pytest.mark.parametrize(
        "fault", ["reset-after-events=2", "half-event,after-events=2", "bad-chunk,after-events=2", "stall-after-events=1"]
    )
    async def test_D13_error_events(self, fault: str, path: str) -> None:
        async with guarded(between_bytes_timeout_s=0.2) as (_, sim, client):
            await client.send(ire(stream=True, path=path, max_tokens=9, headers=[("X-Sim-Fault", fault)]))
            answer = await client.read_response()
            assert (answer.status, answer.complete) == (200, False)
            event = next(data for data in answer.events() if '"error"' in data)
            for word in (str(sim.port), KEY, ENGINE_KEY, PROMPT):
                assert word not in event
            assert not INTERNALS.search(event.encode()), event

    @pytest.mark.parametrize("where", ["tcp", "unix", "name"])
    async def test_D13_an_engine_that_is_not_there(self, where: str, tmp_path: Path) -> None:
        url = {
            "tcp": "http://127.0.0.1:9",
            "unix": f"unix:{tmp_path}/engine.sock",
            "name": "http://no-such-engine.invalid:8000",
        }[where]
        async with running([url], api_keys=(KEY,), connect_timeout_s=1.0) as gw, await gw.client() as client:
            for data in (ire(), ire(stream=True)):
                answer = await ask(client, data)
                assert answer.status in (502, 503, 504)
                assert_tells_nothing(answer, "no-such-engine", "engine.sock", ":9")
            for path in ("/readiness", "/ready", "/health"):
                assert_tells_nothing(await ask(client, request("GET", path)), "no-such-engine", "engine.sock")

    async def test_D13_503(self) -> None:
        async with running([], api_keys=(KEY,)) as gw, await gw.client() as client:
            answer = await ask(client, ire())
            assert (answer.status, answer.header("retry-after") is not None) == (503, True)
            assert_tells_nothing(answer)
        async with running([], max_connections=1) as gw, await gw.client(), await gw.client() as second:
            data, _ = await second.read_until_closed()
            assert data.startswith(b"HTTP/1.1 503 ")
            assert not INTERNALS.search(data)

    async def test_D13_500(self) -> None:
        """A bug in the gateway, with the worst of messages: the client learns that, the log learns where."""
        async with (
            Simulator(SimConfig(any_model=True)) as sim,
            running([sim.url], api_keys=(KEY,), expect_internal_errors=True) as gw,
            await gw.client() as client,
        ):
            core = gw.gateway.core
            assert core is not None

            def fails(exchange: Any) -> None:
                (PROMPT + KEY).encode() and bytes.decode(exchange.body + b"\xff")

            core.walk = (fails,)
            answer = await ask(client, ire())
            assert answer.status == 500
            assert_tells_nothing(answer)
            ((_, message, told),) = gw.events.errors()
            assert message == "internal error"
            assert told["request_id"] == answer.header("x-request-id")
            assert "UnicodeDecodeError" in str(told)
            assert "fails" in str(told)
            assert PROMPT not in repr(gw.events.lines) + repr(gw.raw_records)


class TestD14:
    """A redirect is for the client to judge: passed through or E502, and never followed, also not by probes."""

    @pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 307, 308])
    @pytest.mark.parametrize("stream", [False, True])
    async def test_D14_never_followed(self, stream: bool, status: int) -> None:
        async def never(conn: ScriptedConnection) -> None:
            await conn.read_request()

        async with ScriptedEngine(never) as internal:
            lines = b"Location: %b/latest/meta-data\r\nRefresh: 0; url=%b\r\n" % (internal.url.encode(), internal.url.encode())
            handler = answering(lines, b"moved", b"%d Elsewhere" % status)
            async with (
                ScriptedEngine(handler) as engine,
                running([EngineConfig(url=engine.url, api_key=ENGINE_KEY)]) as gw,
                await gw.client() as client,
            ):
                for turn in range(2):
                    answer = await ask(client, chat("m", stream))
                    assert answer.status in (status, 502)
                    if answer.status == status:
                        assert answer.body == b"moved"
                        assert answer.header("location") == f"{internal.url}/latest/meta-data"
                    assert len([one for one in engine.requests if one.method == b"POST"]) == turn + 1
            assert internal.connections == []

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    async def test_D14_probes_follow_nothing(self, status: int) -> None:
        async def never(conn: ScriptedConnection) -> None:
            await conn.read_request()

        async with ScriptedEngine(never) as internal:

            async def redirects(conn: ScriptedConnection) -> None:
                while True:
                    await conn.read_request()
                    where = internal.url.encode()
                    await conn.send(b"HTTP/1.1 %d Moved\r\nlocation: %b/x\r\ncontent-length: 0\r\n\r\n" % (status, where))

            async with ScriptedEngine(redirects) as engine:
                one = EngineConfig(url=engine.url, api_key=ENGINE_KEY)
                async with running([one], health_interval_s=0.05, model_refresh_s=0.05) as gw, await gw.client() as client:
                    await gw.until("some probes", lambda: len(engine.requests) > 6)
                    assert (await ask(client, request("GET", "/readiness"))).status == 503
                    await ask(client, request("GET", "/v1/models"))
            assert internal.connections == []
