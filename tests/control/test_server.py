"""The control listener over real sockets: who gets in, what is refused and how, and that nobody can hold it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from msgspec.structs import asdict

from fastgw.control import server as module
from fastgw.control.admin_explain import MOST_CHARS, MOST_PROMPT_CHARS, MOST_TOKENS, Asked
from fastgw.control.proof import AdminKey, admin_key
from fastgw.control.routes import Role
from fastgw.control.server import ControlServer
from fastgw.net.listener import BindError
from fastgw.protocol.hosts import HostRule
from tests.conftest import open_fds
from tests.support.client import RawClient, request
from tests.support.pages import Written

ADMIN_KEY = "op-5d0c2f-secret"
METRICS = b"# HELP x y\n# TYPE x gauge\nx 1.0\n"


def the_key(text: str) -> AdminKey:
    """What ``ADMIN_KEY`` becomes."""
    return admin_key("admin", "write", text)


class Events:
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def debug(self, message: str, **fields: Any) -> None:
        self.lines.append(("debug", message, fields))

    def info(self, message: str, **fields: Any) -> None:
        self.lines.append(("info", message, fields))

    def warning(self, message: str, **fields: Any) -> None:
        self.lines.append(("warning", message, fields))

    def error(self, message: str, **fields: Any) -> None:
        self.lines.append(("error", message, fields))


class Hand:
    """A clock set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def serving(
    *,
    key: str = ADMIN_KEY,
    log: Events | None = None,
    render: Callable[[], bytes] = lambda: METRICS,
    clock: Hand | None = None,
    port: int = 0,
    explain: Any = None,
) -> AsyncIterator[ControlServer]:
    control = ControlServer(
        host="127.0.0.1",
        port=port,
        operators=[the_key(key)] if key else [],
        log=log or Events(),
        metrics=Written(render),
        health=lambda: {"engines": 2},
        keys=None,
        hosts=HostRule(["x"], "node-7"),
        clock=clock or Hand(),
        explain=explain,
    )
    await control.start()
    try:
        yield control
    finally:
        await control.stop()


async def ask(control: ControlServer, data: bytes, *, head_only: bool = False) -> Any:
    """One answer on a connection of its own."""
    async with RawClient.connect(control.url) as client:
        await client.send(data)
        return await client.read_response(head_only=head_only)


async def test_health_and_metrics_need_no_key() -> None:
    async with serving() as control:
        health = await ask(control, request("GET", "/healthz"))
        metrics = await ask(control, request("GET", "/metrics?name=x"))
    assert health.status == 200
    assert health.json() == {"status": "ok", "engines": 2}
    assert metrics.status == 200
    assert metrics.body == METRICS
    assert metrics.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"


async def test_head_says_what_get_says_without_the_body() -> None:
    async with serving() as control:
        response = await ask(control, request("HEAD", "/metrics"), head_only=True)
        assert response.status == 200
        assert response.header("content-length") == str(len(METRICS))


async def test_one_connection_serves_many_requests() -> None:
    async with serving() as control, RawClient.connect(control.url) as client:
        for _ in range(3):
            await client.send(request("GET", "/healthz"))
            assert (await client.read_response()).status == 200
        await client.send(request("GET", "/healthz") + request("GET", "/metrics"))
        assert (await client.read_response()).json()["status"] == "ok"
        assert (await client.read_response()).body == METRICS
        assert control.open == 1


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", "/", 404, "unknown_url"),
        ("GET", "/v1/models", 404, "unknown_url"),
        ("GET", "/healthz/", 404, "unknown_url"),
        ("GET", "/HEALTHZ", 404, "unknown_url"),
        ("GET", "/%68ealthz", 404, "unknown_url"),
        ("GET", "//healthz", 404, "unknown_url"),
        ("GET", "/administer", 404, "unknown_url"),
        ("POST", "/metrics", 405, "method_not_allowed"),
        ("OPTIONS", "/healthz", 405, "method_not_allowed"),
        ("GET", "/admin/keys", 401, "invalid_api_key"),
        ("PUT", "/admin/nothing", 401, "invalid_api_key"),
        ("GET", "/v1/../admin/keys", 404, "unknown_url"),
    ],
)
async def test_refusals_have_the_shape_that_sdks_read(method: str, target: str, status: int, code: str) -> None:
    async with serving() as control:
        response = await ask(control, request(method, target))
        assert response.status == status
        assert response.error.keys() == {"message", "type", "param", "code"}
        assert response.error["code"] == code
        assert response.header("content-type") == "application/json"
        assert response.header("allow") == ("GET, HEAD" if status == 405 else None)


async def test_no_answer_says_what_wrote_it() -> None:
    async with serving() as control:
        for data in (
            request("GET", "/healthz"),
            request("GET", "/nothing"),
            request("GET", "/admin/keys"),
            b"nonsense\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nbad name: x\r\n\r\n",
        ):
            response = await ask(control, data)
            assert response.header("server") is None
            assert b"aiohttp" not in response.raw_head.lower() + response.body.lower()


async def test_an_absolute_target_is_the_same_request() -> None:
    async with serving() as control:
        response = await ask(control, request("GET", f"{control.url}/healthz"))
        assert response.status == 200


# --- malformed and hostile
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nbad name: x\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nx: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"x: y\r\n" * 200 + b"\r\n", 400),
    ],
)
async def test_what_is_not_http_is_refused_and_the_connection_closed(data: bytes, status: int) -> None:
    log = Events()
    async with serving(log=log) as control, RawClient.connect(control.url) as client:
        await client.send(data)
        response = await client.read_response()
        assert response.status == status
        assert response.error["type"] == "invalid_request_error"
        assert response.error["message"] in ("The request is malformed.", "The request head is too large.")
        _, how = await client.read_until_closed()
        assert how != "timeout"
    assert [line for line in log.lines if line[0] == "error"] == []


async def test_an_upgrade_is_not_taken_and_leaves_nothing_behind() -> None:
    upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "eA==")]
    async with serving() as control:
        assert (await ask(control, request("GET", "/healthz", headers=upgrade))).status == 200
        assert (await ask(control, request("CONNECT", "/healthz"))).status in (400, 404, 405)
        await until(lambda: control.open == 0)


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  (nothing tells of it)
            await asyncio.sleep(0.01)


async def test_a_slow_head_does_not_hold_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.3)
    async with serving() as control, RawClient.connect(control.url) as client:
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        for _ in range(20):
            try:
                await client.send(b"x: y\r\n")
            except ConnectionError:
                break
            await asyncio.sleep(0.05)
        assert (await client.read_until_closed())[1] != "timeout"
        await until(lambda: control.open == 0)


async def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.2)
    async with serving() as control, RawClient.connect(control.url) as silent, RawClient.connect(control.url) as client:
        await client.send(request("GET", "/healthz"))
        assert (await client.read_response()).status == 200
        assert (await client.read_until_closed())[1] == "fin"
        assert (await silent.read_until_closed())[1] == "fin"


async def test_an_answer_that_nobody_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_S", 0.3)
    async with serving(render=lambda: b"x" * (16 << 20)) as control:
        async with RawClient.connect(control.url, rcvbuf=4096) as client:
            await client.send(request("GET", "/metrics") * 3)
            await until(lambda: control.open == 1)
            await until(lambda: control.open == 0)
            received, how = await client.read_until_closed()
            assert how != "timeout"
            assert len(received) < 16 << 20
        assert (await ask(control, request("GET", "/healthz"))).status == 200


async def test_connections_that_are_idle_keep_nobody_out() -> None:
    """From the same address, as on loopback all are, and from others; the idlest gives way, and none that is being answered."""
    async with serving() as control, contextlib.AsyncExitStack() as held:

        async def crowd(count: int, source: str) -> list[RawClient]:
            return [await held.enter_async_context(RawClient.connect(control.url, source=source)) for _ in range(count)]

        for source in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
            clients = await crowd(130, source)
            assert (await clients[0].read_until_closed())[1] == "fin"
            for asked in (clients[-1], *await crowd(1, source), *await crowd(1, "127.0.0.1")):
                assert (await asked.ask(request("GET", "/healthz"))).status == 200
            assert control.open <= module.MAX_CONNECTIONS
        await held.aclose()
        await until(lambda: control.open == 0)


async def test_one_address_has_half_of_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 6)
    async with serving(render=lambda: b"x" * (16 << 20)) as control, contextlib.AsyncExitStack() as held:

        async def come(source: str) -> RawClient:
            return await held.enter_async_context(RawClient.connect(control.url, source=source, rcvbuf=4096))

        async def gone(client: RawClient) -> bool:
            return (await client.read_until_closed(0.2))[1] == "fin"

        async def at_work(*clients: RawClient) -> None:
            """Each is sent an answer that it does not read."""
            before = sum(one.busy for one in control._connections)
            for client in clients:
                await client.send(request("GET", "/metrics"))
            await until(lambda: sum(one.busy for one in control._connections) == before + len(clients))

        others = [await come("127.0.0.1") for _ in range(3)]
        first, second, third = [await come("127.0.0.2") for _ in range(3)]
        await until(lambda: control.open == 6)
        assert (await first.ask(request("GET", "/healthz"))).status == 200
        await at_work(second)
        fourth = await come("127.0.0.2")
        assert await gone(third), "the first has had a request since"
        await at_work(first, fourth)
        fifth = await come("127.0.0.2")
        assert (await second.read_until_closed(2.0))[1] != "timeout", "all are at work, and it has been for longest"
        assert (await fifth.ask(request("GET", "/healthz"))).status == 200
        await at_work(fifth)
        for one in control._connections:
            one.opened = (the_key(ADMIN_KEY), Role.READ) if one.busy else None
        assert await gone(await come("127.0.0.2")), "all are at work for who has a key"
        for one in others:
            assert (await one.ask(request("GET", "/healthz"))).status == 200
        late = await come("127.0.0.3")
        assert await gone(others[0]), "the idlest of all"
        for one in (late, *others[1:]):
            assert (await one.ask(request("GET", "/healthz"))).status == 200


async def test_a_fault_says_nothing_to_the_caller_and_where_to_the_log() -> None:
    def broken() -> bytes:
        raise KeyError("a secret value")

    log = Events()
    async with serving(render=broken, log=log) as control:
        response = await ask(control, request("GET", "/metrics"))
        assert response.status == 500
        assert response.error["code"] == "internal_error"
        assert b"secret" not in response.body
        assert (await ask(control, request("GET", "/healthz"))).status == 200
    assert [(level, message) for level, message, _ in log.lines] == [("error", "control failed")]
    assert "KeyError" in log.lines[0][2]["error"]
    assert "secret" not in log.lines[0][2]["error"]


# --- starting and stopping
async def test_a_port_in_use_is_said_in_one_line() -> None:
    async with serving() as control:
        port = int(control.url.rpartition(":")[2])
        with pytest.raises(BindError) as raised:
            async with serving(port=port):
                pass
    text = str(raised.value)
    assert f"127.0.0.1:{port}" in text
    assert text.startswith("control listener: ")
    assert "\n" not in text


async def test_stopping_closes_everything_and_may_be_repeated() -> None:
    async with serving() as control:  # what is made once stays: it is part of the base
        await ask(control, request("GET", "/healthz"))
    gc.collect()
    before = open_fds()
    async with serving() as control:
        with pytest.raises(RuntimeError):
            await control.start()
        idle = await RawClient.connect(control.url)
        half = await RawClient.connect(control.url)
        await half.send(b"POST /admin/keys HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        await until(lambda: control.open == 2)
        url = control.url
        async with asyncio.timeout(10):
            await control.stop()
            await control.stop()
        for client in (idle, half):
            assert (await client.read_until_closed())[1] != "timeout"
            client.close()
        with pytest.raises(OSError, match="Errno 111"):
            await RawClient.connect(url)
        assert control.url == ""
        await until(lambda: control.open == 0)
    await asyncio.sleep(0.05)
    gc.collect()
    assert {fd: what for fd, what in open_fds().items() if before.get(fd) != what} == {}


async def test_it_listens_again_on_the_same_port_at_once() -> None:
    async with serving() as control:
        await ask(control, request("GET", "/healthz"))
        port = int(control.url.rpartition(":")[2])
    async with serving(port=port) as control:
        assert (await ask(control, request("GET", "/healthz"))).status == 200


PATHS = ("/healthz", "/metrics", "/admin/keys", "/nowhere")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("host", ["page.example", "page.example:9090", "localhost.page.example", "127.0.0.1.nip.io", "evil@x"])
async def test_a_web_page_does_not_get_in_under_its_own_name(path: str, host: str) -> None:
    """DNS rebinding: a page's name can be made to lead here, and browsers ask nobody. With the key or without."""
    async with serving() as control:
        for key in (None, ADMIN_KEY):
            answer = await ask(control, request("GET", path, host=host, key=key))
            assert (answer.status, answer.error["code"]) == (421, "host_not_allowed")
        answer = await ask(control, request("GET", f"http://{host}{path}", key=ADMIN_KEY))
        assert answer.status == 421
        assert b"x 1.0" not in answer.body


async def test_a_refused_name_is_said_now_and_then_without_keys() -> None:
    """Who scrapes under a name that is not listed sees only that it ends."""
    log, clock = Events(), Hand()
    async with serving(log=log, clock=clock) as control:
        for host in ("fastgw:9090", "fastgw:9090", f"a-{ADMIN_KEY}", "sk-" + "proj-0123456789abcdef"):
            assert (await ask(control, request("GET", "/metrics", host=host))).status == 421
            clock.now += 6.0
    told = [fields["host"] for level, _, fields in log.lines if level == "warning"]
    assert told == ["fastgw:9090", "a-[key]"]


@pytest.mark.parametrize("host", ["localhost:9090", "127.0.0.1", "[::1]:9090", "node-7", "prometheus.internal", "X"])
async def test_good_names(host: str) -> None:
    async with serving() as control:
        assert (await ask(control, request("GET", "/metrics", host=host))).status == 200


async def test_one_host_and_one_only() -> None:
    async with serving() as control:
        two = b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: page.example\r\n\r\n"
        assert (await ask(control, two)).status == 400
        assert (await ask(control, b"GET /healthz HTTP/1.1\r\n\r\n")).status == 400
        assert (await ask(control, b"GET /healthz HTTP/1.0\r\n\r\n")).status == 200, "a load balancer's probe; no browser"


class Explains:
    """Knows one key."""

    def explain(self, asked: Asked) -> Any:
        if asked.key_id not in ("", "key_1"):
            raise KeyError(asked.key_id)
        return {name: value for name, value in asdict(asked).items() if value}


@pytest.mark.parametrize(("method", "target", "status"), [
    ("GET", "/admin/explain?model=m&key_id=key_1&request_id=r&prompt=a%0Ab&max_tokens=7", 200),
    ("GET", "/admin/explain?model=m&key_id=key_2", 400),
    ("GET", "/admin/explain?model=m&key_id=key_1&tenant=t", 400), ("GET", "/admin/explain?model=m&needs=a%0D%0Ab", 400),
    ("GET", f"/admin/explain?model=m&session={'s' * (MOST_CHARS + 1)}", 400),
    ("GET", f"/admin/explain?model=m&prompt={'p' * (MOST_PROMPT_CHARS + 1)}", 400),
    ("GET", f"/admin/explain?model=m&max_tokens={MOST_TOKENS + 1}", 400),
    ("GET", "/admin/explain?model=m&max_tokens=%C2%B2", 400),
    ("GET", "/admin/explain", 400), ("GET", "/admin/explain?model=m&modle=m", 400),
    ("GET", f"/admin/explain?model={'m' * (MOST_CHARS + 1)}", 400), ("POST", "/admin/explain?model=m", 405),
])  # fmt: skip
async def test_what_a_request_would_get(method: str, target: str, status: int) -> None:
    async with serving(explain=Explains()) as control:
        answer = await ask(control, request(method, target, key=ADMIN_KEY))
        assert answer.status == status
        if status == 200:
            assert answer.json() == {"model": "m", "key_id": "key_1", "request_id": "r", "prompt": "a\nb", "max_tokens": 7}
    async with serving() as control:
        nobody = await ask(control, request(method, target, key=ADMIN_KEY))
        assert nobody.status == (404 if method == "GET" else 405)
        assert (await ask(control, request(method, target))).status == 401


async def test_ipv6_is_written_as_a_url() -> None:
    control = ControlServer(
        host="::1", port=0, operators=[], log=Events(), metrics=Written(), health=dict, keys=None,
        hosts=HostRule([], ""),
    )  # fmt: skip
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        with pytest.raises(BindError):
            await control.start()
        return
    assert (await control.start()).startswith("http://[::1]:")
    await control.stop()


def test_the_data_plane_does_not_bring_it_along() -> None:
    """aiohttp takes longer to import than a gateway to start: nothing that listens may wait for it."""
    script = "import json, sys, fastgw.app; print(json.dumps(list({name.split('.')[0] for name in sys.modules})))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(json.loads(found.stdout))
    assert "fastgw" in loaded
    assert loaded & {"aiohttp", "prometheus_client", "sqlite3"} == set()
