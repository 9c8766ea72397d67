"""``/ws/runners`` over real sockets, at both doors: what only frames and descriptors show. (What is said is a conversation:
``tests/protocol/test_runners.py``.)"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import fastgw.control.runners_ws as module
from fastgw import Config
from fastgw.protocol.runner_words import MAX_FRAME_BYTES, LoadModel
from fastgw.runners import RunnerDesk
from tests.support import tls_client
from tests.support.client import RawClient, request
from tests.support.gateway import Running, running
from tests.support.runners import TOKEN, heartbeat, register
from tests.support.ws import BINARY, CLOSE, PING, PONG, TEXT, Socket, frame, handshake, said

ADMIN = "sk-admin-of-these-tests"
LOCAL = ["127.0.0.0/8"]
DOORS = ("public", "control")
TUNNEL = b"Sec-WebSocket-Protocol: fastgw.tunnel.1\r\n"


@asynccontextmanager
async def gateway(**settings: Any) -> AsyncIterator[Running]:
    settings = {
        "runner_auth_token": TOKEN, "runner_allowed_networks": LOCAL, "control_listen": "127.0.0.1:0", "admin_key": ADMIN,
        "health_interval_s": 60.0, "warm_connections": 0, **settings,
    }  # fmt: skip
    async with running([], **settings) as gw:
        yield gw


def at(gw: Running, door: str) -> str:
    return gw.url if door == "public" else gw.gateway.control_url


def desk(gw: Running) -> RunnerDesk:
    door = gw.gateway._door
    assert door is not None
    assert door.runners.desk is not None
    return door.runners.desk


def there(gw: Running) -> list[str]:
    return [runner.id for runner in desk(gw).registry]


def changed(gw: Running, **settings: Any) -> Config:
    config, own = gw.gateway.config, ("api_key_digests", "warnings")
    return Config(**{name: getattr(config, name) for name in Config.__struct_fields__ if name not in own} | settings)


async def ask(url: str, path: str, **more: Any) -> tuple[int, Any]:
    async with RawClient.connect(url) as client:
        await client.send(request("GET", path, **more))
        answer = await client.read_response()
    return answer.status, answer.json() if answer.body.startswith(b"{") else answer.body


@pytest.mark.together
@pytest.mark.parametrize("door", DOORS)
async def test_S4_01_a_runner_registers_and_is_seen_and_leaves(door: str) -> None:
    async with gateway() as gw:
        one = await Socket.opened(at(gw, door))
        await one.say(register(http_port=9))
        assert await one.message() == {"type": "register_ack", "runner_id": "r1"}
        status, listed = await ask(gw.gateway.control_url, "/runners", key=ADMIN)
        assert (status, listed["data"][0]["url"]) == (200, "http://127.0.0.1:9")
        assert gw.stats.connections_open == (door == "public")
        one.close()
        await gw.until("it is gone", lambda: there(gw) == [] and not gw.stats.connections_open)


@pytest.mark.together
@pytest.mark.parametrize("door", DOORS)
async def test_all_that_is_said_at_once_with_the_handshake_is_heard(door: str) -> None:
    async with gateway() as gw:
        one = await Socket.opened(at(gw, door), behind=said(register(http_port=9)) + said(heartbeat()) + frame(PING, b"x"))
        heard = [await one.frame(), await one.frame()]
        assert (PONG, b"x") in heard
        assert any(b"register_ack" in payload for _, payload in heard)
        one.close()


@pytest.mark.together
async def test_a_handshake_that_comes_byte_by_byte_is_handed_over_all_the_same() -> None:
    async with gateway() as gw:
        one = await Socket.dial(gw.url)
        for byte in handshake() + said(register(http_port=9)):
            one.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await one.head()).startswith(b"HTTP/1.1 101 ")
        assert (await one.message())["type"] == "register_ack"
        one.close()


@pytest.mark.together
async def test_a_handshake_behind_other_requests_has_its_turn_and_what_is_behind_it_is_the_runners() -> None:
    async with gateway() as gw:
        one = await Socket.dial(gw.url)
        plain = request("GET", "/liveness")
        await one.send(plain * 3 + handshake() + said(register(http_port=9)) + said(heartbeat()) + plain)
        for _ in range(3):
            assert (await one.head()).startswith(b"HTTP/1.1 200 ")
            await one.reader.readexactly(len(b'{"status":"ok"}'))
        head = await one.head()
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"\r\nserver:" not in head.lower()
        assert (await one.ends())[1] == 1002  # (a request is no frame)
        assert there(gw) == ["r1"]


async def test_over_a_unix_socket_a_runner_names_its_address(tmp_path: Path) -> None:
    async with gateway(unix_socket=str(tmp_path / "gw")) as gw:
        for url, wanted in ((None, "error"), ("http://127.0.0.1:9", "register_ack")):
            one = Socket(*await asyncio.open_unix_connection(str(tmp_path / "gw")))
            await one.send(handshake() + said(register(http_port=9, url=url)))
            assert (await one.head()).startswith(b"HTTP/1.1 101 ")
            assert (await one.message())["type"] == wanted
            one.close()
        assert there(gw) == ["r1"]


@pytest.mark.together
async def test_behind_tls_a_runner_is_spoken_with_as_without() -> None:
    async with gateway(**tls_client.settings()) as gw:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        one = await Socket.opened(gw.url, context=context, behind=said(register(http_port=9)))
        assert (await one.message())["type"] == "register_ack"
        for _ in range(20):
            await one.send(frame(PING, b"y" * 100))
        assert [await one.frame() for _ in range(20)] == [(PONG, b"y" * 100)] * 20
        await one.send(frame(BINARY, b"bytes"))
        heard, code = await one.ends()
        assert (heard[-1]["code"], code) == ("PROTOCOL_ERROR", 1003)
        two = await Socket.opened(gw.url, context=context, behind=said(register(http_port=9)))
        assert (await two.message())["type"] == "register_ack"
        two.close(reset=True)
        await gw.until("nothing of it is held", lambda: len(desk(gw).sockets) == 0)


def compressed() -> bytes:
    squeezed = zlib.compressobj(wbits=-15)
    return squeezed.compress(b"0" * 50_000_000) + squeezed.flush(zlib.Z_SYNC_FLUSH)


FRAMES: dict[str, tuple[bytes, int]] = {
    "a length of 64 bits": (b"\x81\xff" + b"\x7f" + b"\xff" * 7 + b"mask", 1009),
    "a text that is too long": (frame(TEXT, b"x" * (MAX_FRAME_BYTES + 1)), 1009),
    "fragments without an end": (
        frame(TEXT, b"x" * 60_000, fin=False) + frame(0, b"x" * 60_000, fin=False) + frame(0, b"x" * 60_000, fin=False), 1009,
    ),
    "no mask": (frame(TEXT, b"{}", masked=False), 1002),
    "RSV1, which nobody agreed on": (frame(TEXT, b"{}", rsv=4), 1002),
    "RSV2": (frame(TEXT, b"{}", rsv=2), 1002),
    "RSV3": (frame(TEXT, b"{}", rsv=1), 1002),
    "a compressed bomb": (frame(TEXT, compressed()[:100_000], rsv=4), 1002),
    "an opcode that is none": (frame(3, b"{}"), 1002),
    "a control frame of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "a control frame in pieces": (frame(PING, b"x", fin=False), 1002),
    "a continuation of nothing": (frame(0, b"x"), 1002),
    "a message within another": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
    "no UTF-8": (frame(TEXT, b"\xc3\x28"), 1007),
    "half a character": (frame(TEXT, b'{"type":"heartbeat","health":"\xe2\x82'), 1007),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a close with a code that is none": (frame(CLOSE, b"\x03\xe7"), 1002),
    "a flood of pings": (frame(PING, b"x") * 500, 1008),
    "a flood of messages": (said(heartbeat()) * 500, 1008),
    "bytes": (frame(BINARY, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 1003),
}  # fmt: skip


@pytest.mark.together
@pytest.mark.parametrize("name", FRAMES)
async def test_L3_frames_that_must_not_be_close_with_their_code(name: str) -> None:
    sent, code = FRAMES[name]
    async with gateway() as gw:
        one = await Socket.opened(gw.url, behind=said(register(http_port=9)))
        assert (await one.message())["type"] == "register_ack"
        await one.send(sent)
        assert (await one.ends())[1] == code
        await gw.until("nothing of it is held", lambda: len(desk(gw).sockets) == 0)


@pytest.mark.together
@pytest.mark.parametrize("door", DOORS)
async def test_L1_a_token_in_the_url_is_refused_and_stands_in_no_log(door: str) -> None:
    async with gateway() as gw:
        one = await Socket.opened(at(gw, door), f"/ws/runners?token={TOKEN}", behind=said(register(http_port=9)))
        heard, code = await one.ends()
        assert [message["code"] for message in heard] == ["AUTH_FAILED"]
        assert code == 1008
        assert there(gw) == []
        assert TOKEN not in str(gw.events.lines) + str(gw.records)


@pytest.mark.together
@pytest.mark.parametrize(("door", "path", "lines", "wanted"), [
    *[(door, "/ws/runners", b"Origin: https://page.example\r\n", 403) for door in DOORS],
    ("public", "/ws/runners/", b"", 404), ("public", "/ws//runners", b"", 404), ("public", "/WS/runners", b"", 404),
    ("public", "/ws/%72unners", b"", 404), ("control", "/ws/%72unners", b"", 404),
    ("public", "/runners", b"", 404), ("public", "/admin/runners", b"", 404),
])  # fmt: skip
async def test_what_is_no_runners_handshake(door: str, path: str, lines: bytes, wanted: int) -> None:
    async with gateway() as gw:
        one = await Socket.dial(at(gw, door))
        await one.send(handshake(path, lines))
        assert (await one.head()).split()[1] == b"%d" % wanted
        one.close()


@pytest.mark.together
@pytest.mark.parametrize("door", DOORS)
async def test_a_plain_request_is_told_what_is_spoken_there(door: str) -> None:
    async with gateway() as gw:
        status, told = await ask(at(gw, door), "/ws/runners")
        assert status == 400
        assert "WebSocket" in told["error"]["message"]


@pytest.mark.together
async def test_S4_01_without_a_token_there_is_no_such_place() -> None:
    async with gateway(runner_auth_token="") as gw:
        for door in DOORS:
            one = await Socket.dial(at(gw, door))
            await one.send(handshake())
            assert (await one.head()).startswith(b"HTTP/1.1 404 ")
            one.close()
        assert (await ask(gw.gateway.control_url, "/runners", key=ADMIN))[0] == 404


async def test_whoever_came_with_a_token_that_is_none_any_more_goes_and_comes_again_with_the_new_one() -> None:
    async with gateway() as gw:
        for number, door in enumerate((*DOORS, "tunnel"), 1):
            if door == "tunnel":
                one = await Socket.dial(gw.url)
                await one.send(handshake(lines=TUNNEL))
                await one.head()
            else:
                one = await Socket.opened(at(gw, door))
            await one.say(register(id=door, http_port=number))
            assert (await one.message())["type"] == "register_ack"
            await gw.gateway.follow(changed(gw, runner_heartbeat_s=20.0))
            await one.say(heartbeat())
            await gw.gateway.follow(changed(gw, runner_auth_token=f"{TOKEN}-since-{door}"))
            heard, code = await one.ends()
            assert ([message["code"] for message in heard], code) == (["AUTH_FAILED"], 1008)
            again = await Socket.opened(gw.url)
            await again.say(register(id=f"{door}-again", http_port=10 + number, auth_token=f"{TOKEN}-since-{door}"))
            assert (await again.message())["type"] == "register_ack"
            again.close()
            await gw.gateway.follow(changed(gw, runner_auth_token=TOKEN))


@pytest.mark.together
async def test_S4_04_D6_runners_are_shown_where_configured_and_to_the_operator() -> None:
    async with gateway(api_keys=["sk-a-tenant"]) as gw:
        assert (await ask(gw.url, "/runners", key="sk-a-tenant"))[0] == 404
        assert (await ask(gw.url, "/runners", key=ADMIN))[0] == 404
    async with gateway(api_keys=["sk-a-tenant"], show_runners=True) as gw:
        assert [(await ask(gw.url, "/runners", key=key))[0] for key in (None, "sk-a-tenant", "nobody", ADMIN)] == [
            401, 401, 401, 200,
        ]  # fmt: skip
        for _ in range(12):
            status, _ = await ask(gw.url, "/runners", key="guessed")
        assert status == 429
        assert (await ask(gw.url, "/runners", key=ADMIN))[0] == 200
    async with gateway(admin_key="", show_runners=True) as gw:
        assert (await ask(gw.url, "/runners", key=ADMIN))[0] == 403


async def test_connections_that_do_not_register_are_few_and_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_NEW", 4)
    async with gateway() as gw:
        silent = [await Socket.opened(gw.url) for _ in range(4)]
        one = await Socket.opened(gw.url)
        assert (await silent[0].ends())[1] == 1013
        await one.say(register(http_port=9))
        assert (await one.message())["type"] == "register_ack"
        for each in (one, *silent[1:]):
            each.close()


async def test_those_that_dial_the_port_for_clients_count_among_their_addresss_connections_until_they_end() -> None:
    async with gateway(max_connections_per_ip=3) as gw:
        first = await Socket.opened(at(gw, "public"))
        await first.say(register(http_port=9))
        assert (await first.message())["type"] == "register_ack"
        silent = await Socket.opened(at(gw, "public"))
        tunnel = await Socket.dial(at(gw, "public"))
        await tunnel.send(handshake(lines=TUNNEL))
        await tunnel.head()
        for again in (False, True):
            if again:  # (they are counted anew)
                await gw.gateway.follow(changed(gw, trusted_proxies=("10.0.0.1",)))
            more = await Socket.dial(at(gw, "public"))
            assert (await more.head()).startswith(b"HTTP/1.1 503")
            more.close()
        assert (await ask(gw.gateway.control_url, "/runners", key=ADMIN))[0] == 200
        for left, one in enumerate((first, silent, tunnel), 1):
            one.close()
            await gw.until("it has ended", lambda left=left: gw.stats.connections_open == 3 - left)
        (await Socket.opened(at(gw, "public"))).close()


async def test_runners_take_no_place_among_the_operators() -> None:
    async with gateway(max_connections=2, max_connections_per_ip=2, max_runners=1000) as gw:
        runners = []
        for number in range(140):  # more than operators may be
            one = await Socket.opened(at(gw, "control"))
            await one.say(register(id=f"r{number}", http_port=10_000 + number))
            assert (await one.message())["type"] == "register_ack"
            runners.append(one)
        assert (await ask(gw.url, "/liveness"))[0] == 200
        assert len((await ask(gw.gateway.control_url, "/runners", key=ADMIN))[1]["data"]) == 140
        await gw.gateway.stop()
        assert [code for _, code in await asyncio.gather(*(one.ends() for one in runners))] == [1001] * 140


async def test_one_that_reads_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_S", 0.1)
    async with gateway() as gw:
        one = await Socket.opened(gw.url)
        await one.say(register(http_port=9))
        await one.message()
        session = next(iter(desk(gw).registry)).session
        one.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(20_000):
            if not session.say(LoadModel(model_id="m" * 200, request_id="1"), 0.0):
                break
            if len(session.out) > 50:
                await asyncio.sleep(0)
        await gw.until("it is closed", lambda: session.closing is not None)
        await gw.until("its socket is", lambda: len(desk(gw).sockets) == 0)
        one.close(reset=True)
