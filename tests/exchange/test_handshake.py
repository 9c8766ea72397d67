"""Who asks for a WebSocket, and which answer to that is one (RFC 6455 sections 4.1 and 4.2)."""

from __future__ import annotations

import pytest

from fastgw.errors import GatewayError
from fastgw.protocol.http1.server import parse_request
from tests.conversations.h2_row import h2
from tests.support.byhand.h2_front import h2_client
from tests.support.conversation import conversation
from tests.support.h2 import frames as f
from tests.support.requests import request

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
FIELDS = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": KEY}
AGREES = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="}


def asks(changes: dict[str, str | None], more: tuple[tuple[str, str], ...] = ()) -> bytes:
    fields = [(name, value) for name, value in {**FIELDS, **changes}.items() if value is not None]
    return request("GET", "/v1/realtime?model=m", headers=[*fields, *more])


@pytest.mark.parametrize(("changes", "status"), [
    ({}, 0),
    ({"Connection": "keep-alive, upgrade", "Upgrade": "WebSocket"}, 0),
    ({"Upgrade": None}, 400),
    ({"Upgrade": "h2c"}, 400),
    ({"Connection": None}, 400),
    ({"Connection": "keep-alive"}, 400),
    ({"Connection": "upgrade-not"}, 400),
    ({"Sec-WebSocket-Key": None}, 400),
    ({"Sec-WebSocket-Key": ""}, 400),
    ({"Sec-WebSocket-Key": "x"}, 400),
    ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ"}, 400),
    ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZTE5"}, 400),  # of 18 bytes
    ({"Sec-WebSocket-Key": f"{KEY}, {KEY}"}, 400),
    ({"Sec-WebSocket-Version": None}, 426),
    ({"Sec-WebSocket-Version": "8"}, 426),
    ({"Sec-WebSocket-Version": "13, 8"}, 426),
], ids=str)  # fmt: skip
def test_what_is_no_handshake_reaches_no_engine(changes: dict[str, str | None], status: int) -> None:
    with conversation(1) as talk:
        client = talk.client().says(asks(changes))
        assert talk.asked == [int(not status)]
        if status:
            answer = client.sees(status)
            versions = answer.header("sec-websocket-version"), answer.header("upgrade"), answer.header("connection")
            assert versions == (("13", "websocket", "upgrade") if status == 426 else (None, None, versions[2]))


@pytest.mark.parametrize("path", [b"/v1/realtime?model=m", b"/v1/responses"])
def test_nor_does_one_in_http_1_0(path: bytes) -> None:
    with conversation(1) as talk:
        said = asks({}).replace(b"/v1/realtime?model=m", path, 1).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        talk.client().says(said).sees(400, "bad_request")
        assert talk.asked == [0]


@pytest.mark.parametrize("version", [None, "8"])
def test_nor_does_one_of_another_version_over_http2(version: str | None) -> None:
    fields = [":method: CONNECT", ":protocol: websocket", ":scheme: http", ":path: /v1/realtime?model=m", ":authority: peer"]
    with conversation(1) as talk, h2_client(talk) as client:
        client.says(f.headers(1, f.fields(*fields, *([f"sec-websocket-version: {version}"] if version else []))))
        client.sees("HEADERS 1 :status=426")
        assert talk.asked == [0]


@pytest.mark.parametrize(("said", "outcome", "within"), [
    (b"\x88\x02\x03\xe8", "ok", False), (b"\x88\x02\x03", "ok", False),
    (b"", "truncated", False), (b"\x81\x02hi", "truncated", False), (b"\x01\x01a", "truncated", False),
    (b"\x81", "truncated", True), (b"\x81\x7e\x00", "truncated", True), (b"\x81\x05he", "truncated", True),
    (b"\x89\x05ab", "truncated", True),
], ids=str)  # fmt: skip
def test_an_engine_that_ends_without_its_close_has_broken_it_off(said: bytes, outcome: str, within: bool) -> None:
    """(Whoever has begun to say it has nothing more to say.)"""
    with conversation(1) as talk:
        client = talk.client().says(asks({}))
        lines = "".join(f"{name}: {value}\r\n" for name, value in AGREES.items())
        engine = talk.engines[0].last
        engine.says(f"HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n".encode() + said)
        engine.closes("fin")
        record = talk.records[-1]
        assert (record["outcome"], talk.stats.truncations_total) == (outcome, int(outcome == "truncated"))
        assert client.closed
        assert client.passed_on.startswith(said)
        told = client.passed_on[len(said) :]
        assert (told[:1] == b"\x88") is (outcome != "ok" and not within), "no close of ours within a frame, or behind one"


@pytest.mark.parametrize(("changes", "more", "status"), [
    ({}, "", 101),
    ({"upgrade": "WebSocket"}, "", 101),
    ({"upgrade": "h2c"}, "", 502),
    ({"upgrade": "websocket, h2c"}, "", 502),
    ({"upgrade": ""}, "", 502),
    ({}, "upgrade: h2c\r\n", 502),
    ({}, "upgrade: websocket\r\n", 502),
    ({"sec-websocket-accept": None}, "", 502),
    ({"sec-websocket-accept": "x"}, "", 502),
    ({}, "sec-websocket-accept: x\r\n", 502),
], ids=str)  # fmt: skip
def test_an_answer_that_is_none_to_this_handshake_is_a_bad_gateway(
    changes: dict[str, str | None], more: str, status: int
) -> None:
    with conversation(1) as talk:
        client = talk.client().says(asks({}))
        lines = "".join(f"{name}: {value}\r\n" for name, value in {**AGREES, **changes}.items() if value is not None)
        talk.engines[0].last.says(f"HTTP/1.1 101 Switching Protocols\r\n{lines}{more}\r\n".encode())
        assert client.seen.status == status


def test_a_connect_that_asks_for_no_websocket_is_told_what_is_taken() -> None:
    allow = "GET, HEAD, OPTIONS, POST"
    with pytest.raises(GatewayError) as refused:
        parse_request(b"CONNECT a:443 HTTP/1.1\r\nhost: a:443")
    assert (refused.value.kind.status, refused.value.allow) == (405, allow)
    with h2() as say, h2_client(say.talk) as client:
        client.says(f.headers(1, f.fields(":method: CONNECT", ":authority: a:443"), end=True))
        assert f"allow={allow}" in str(client.sees("HEADERS 1 :status=405"))
