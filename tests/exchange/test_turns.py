"""The Responses API over a WebSocket: who is accepted, which engine his first message goes to, and what he may say then."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from msgspec.structs import replace

from fastgw.config import EngineConfig, RouteConfig
from fastgw.exchange.turns import MOST_PINGS, UNABLE_S
from fastgw.net.wire import QUEUED
from fastgw.protocol.websocket import accept_of
from tests.conversations.deployed_row import deployed, key_of, tenant_key
from tests.support.byhand.client import HandClient
from tests.support.byhand.h2_front import h2_client
from tests.support.conversation import KEY, Conversation, conversation
from tests.support.h2 import frames as f
from tests.support.requests import request
from tests.support.ws import BINARY, CLOSE, PING, PONG, TEXT, frame

FIELDS = [
    ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]  # fmt: skip
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
SWITCH = b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: %b\r\n\r\n" % ACCEPT
NO = b"HTTP/1.1 %d No\r\ncontent-length: 2\r\n\r\n{}"
ENGINES = [
    EngineConfig(url="http://127.0.0.1:9", warm_connections=0, models=("m",)),
    EngineConfig(url="http://127.0.0.2:9", warm_connections=0, models=("n",), served_name="own"),
]


def handshake(*more: tuple[str, str], key: str | None = None) -> bytes:
    return request("GET", "/v1/responses", headers=[*FIELDS, *more], key=key)


def says(**members: Any) -> bytes:
    return frame(TEXT, json.dumps(members).encode())


def create(model: str | None = "m", **more: Any) -> bytes:
    return says(type="response.create", **({} if model is None else {"model": model}), input="hello", **more)


def server(opcode: int, payload: bytes) -> bytes:
    return frame(opcode, payload, masked=False)


def done(prompt: int, completion: int, told: str = "resp_1") -> bytes:
    usage = {"input_tokens": prompt, "output_tokens": completion, "total_tokens": prompt + completion}
    return server(TEXT, json.dumps({"type": "response.completed", "response": {"id": told, "usage": usage}}).encode())


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """What was said in whole frames, masked or not."""
    found = []
    while data:
        first, second = data[0], data[1]
        size, at = second & 127, 2
        if size >= 126:
            wide = 2 if size == 126 else 8
            size, at = int.from_bytes(data[2 : 2 + wide], "big"), 2 + wide
        mask = data[at : at + 4] if second & 128 else b"\0\0\0\0"
        at += 4 if second & 128 else 0
        found.append((first & 15, bytes(byte ^ mask[i % 4] for i, byte in enumerate(data[at : at + size]))))
        data = data[at + size :]
    return found


def told(client: HandClient) -> list[Any]:
    return [json.loads(text) if kind == TEXT else (kind, text) for kind, text in frames(bytes(client.passed_on))]


def ends(client: HandClient) -> tuple[str, int]:
    """With which error its session has ended, and the code of the close."""
    *_, event, (kind, close) = told(client)
    assert (kind, client.closed) == (CLOSE, "eof")
    assert event["type"] == "error"
    return str(event["error"]["code"]), struct.unpack(">H", close[:2])[0]


def opened(talk: Conversation, engine: int = 0, *, model: str = "m", key: str | None = None) -> tuple[HandClient, Any]:
    client = talk.client().says(handshake(key=key))
    assert client.seen.status == 101
    client.says(create(model))
    asked = talk.engines[engine].last.says(SWITCH)
    return client, asked


def test_the_first_messages_model_chooses_the_engine_and_it_is_told_all_of_it_by_its_own_name() -> None:
    with conversation(ENGINES) as talk:
        client = talk.client().says(handshake(("sec-websocket-protocol", "openai-beta.responses-v1, other")))
        answer = client.seen
        assert (answer.status, answer.header("sec-websocket-accept")) == (101, ACCEPT.decode())
        assert answer.header("sec-websocket-protocol") == "openai-beta.responses-v1"
        whole = create("n", previous_response_id=None)
        first, rest = whole[:9], whole[9:]
        client.says(frame(PING, b"p") + first)
        assert talk.asked == [0, 0]
        client.says(rest)
        assert talk.asked == [0, 1]
        asked = talk.engines[1].last
        assert (asked.start.method, asked.start.target, asked.body) == (b"GET", b"/v1/responses", b"")
        assert asked.field(b"sec-websocket-protocol") == b"openai-beta.responses-v1"
        asked.says(SWITCH + server(TEXT, b'{"type":"response.created"}'))
        client.says(frame(PING, b"q"))
        assert [kind for kind, _ in frames(bytes(asked.body))] == [TEXT, PING]
        assert json.loads(frames(bytes(asked.body))[0][1])["model"] == "own"
        asked.says(done(3, 4)).closes("fin")
        assert [one if isinstance(one, tuple) else one["type"] for one in told(client)[:3]] == [
            (PONG, b"p"), "response.created", "response.completed",
        ]  # fmt: skip


def test_a_model_in_the_query_is_the_messages() -> None:
    with conversation(ENGINES) as talk:
        hello = handshake().replace(b"/v1/responses", b"/v1/responses?x=1&model=n", 1)
        assert ends(talk.client().says(hello).says(create("m"))) == ("invalid_parameter", 1008)
        assert talk.asked == [0, 0]
        client = talk.client().says(hello).says(create("n"))
        assert talk.engines[1].last.start.target == b"/v1/responses?x=1&model=own"
        client.leaves()


def test_it_is_no_path_for_anything_else() -> None:
    with conversation(ENGINES) as talk:
        talk.client().says(request("GET", "/v1/responses")).sees(405, "method_not_allowed")
        talk.client().says(request("GET", "/v1/responses", headers=[FIELDS[1]])).sees(400, "bad_request")
        talk.client().says(request("GET", "/v1/embeddings", headers=FIELDS)).sees(405, "method_not_allowed")


def test_who_may_not_is_told_before_he_is_accepted() -> None:
    with conversation(ENGINES, api_keys=(KEY,), daily_token_quota=10) as talk:
        talk.client().says(handshake()).sees(401)
        client, asked = opened(talk, key=KEY)
        asked.says(done(5, 5))
        talk.client().says(handshake(key=KEY)).sees(429)
        record = talk.records[-2]
        assert (record["status"], record["outcome"]) == (101, "quota")
        assert ends(client) == ("daily_quota_exceeded", 1008)
    with conversation(ENGINES) as talk:
        talk.client().says(handshake(("origin", "http://elsewhere.example"))).sees(403, "origin_not_allowed")


def test_a_browsers_key_stands_in_the_subprotocol_and_goes_nowhere() -> None:
    with conversation(ENGINES, api_keys=(KEY,)) as talk:
        offered = f"openai-insecure-api-key.{KEY}, realtime, other"
        client = talk.client().says(handshake(("sec-websocket-protocol", offered))).says(create())
        assert client.seen.header("sec-websocket-protocol") == "realtime"
        assert talk.engines[0].last.field(b"sec-websocket-protocol") == b"realtime"
        client.leaves()


BEFORE: dict[str, tuple[bytes, str, int]] = {
    "no JSON": (frame(TEXT, b"{"), "invalid_json", 1008),
    "no UTF-8": (frame(TEXT, b'{"type":"response.create","model":"\xff"}'), "invalid_json", 1008),
    "no object": (frame(TEXT, b"[]"), "invalid_parameter", 1008),
    "another message": (says(type="session.update", model="m"), "invalid_parameter", 1008),
    "as Realtime has it": (says(type="response.create", model="m", response={"model": "n"}), "invalid_parameter", 1008),
    "two types": (frame(TEXT, b'{"type":"x","model":"m","type":"response.create"}'), "duplicate_member", 1008),
    "two models": (frame(TEXT, b'{"type":"response.create","model":"m","model":"n"}'), "duplicate_member", 1008),
    "no model": (create(None), "missing_model", 1008),
    "a model of nobody's": (create("x"), "model_not_found", 1008),
    "a peer": (create(kv_transfer_params={"do_remote_prefill": True}), "invalid_parameter", 1008),
    "binary": (frame(BINARY, b"x"), "bad_request", 1003),
    "unmasked": (frame(TEXT, b"{}", masked=False), "bad_request", 1002),
    "compressed": (frame(TEXT, b"{}", rsv=4), "bad_request", 1002),
    "too long": (frame(TEXT, b"x" * 2000), "body_too_large", 1009),
    "too long in pieces": (frame(TEXT, b"x" * 700, fin=False) + frame(0, b"x" * 700), "body_too_large", 1009),
    "pings": (frame(PING, b"") * 200, "", 0),
}


@pytest.mark.parametrize("case", BEFORE)
def test_a_first_message_that_is_none_reaches_no_engine(case: str) -> None:
    said, code, close = BEFORE[case]
    with conversation(ENGINES, max_body_bytes=1024) as talk:
        client = talk.client().says(handshake()).says(said)
        if not code:
            assert MOST_PINGS < 400
            client.says(said)
            code, close = "bad_request", 1008
        assert ends(client) == (code, close)
        assert talk.asked == [0, 0]
        assert talk.stats.body_bytes_open == 0
        (record,) = talk.records
        assert (record["endpoint"], record["status"], record["outcome"]) == ("GET /v1/responses", 101, "error")


LATER: dict[str, tuple[bytes, str]] = {
    "another model": (create("n"), "invalid_parameter"),
    "none": (create(None), "invalid_parameter"),
    "another's in another message": (says(type="response.steer", model="n"), "invalid_parameter"),
    "as Realtime has it": (says(type="response.create", model="m", response={"model": "n"}), "invalid_parameter"),
    "a type of two": (frame(TEXT, b'{"type":"x","Type":"response.create"}'), "duplicate_member"),
    "no type": (says(model="m", input="hello"), "invalid_parameter"),
    "an adapter": (create(lora_path="n"), "forbidden"),
    "a peer": (create(kv_transfer_params={"do_remote_prefill": True}), "invalid_parameter"),
    "no JSON": (frame(TEXT, b'{"model":"n"'), "invalid_json"),
    "binary": (frame(BINARY, b"{}"), "bad_request"),
    "too long": (frame(TEXT, b"x" * 700, fin=False) + frame(0, b"x" * 700), "body_too_large"),
}


@pytest.mark.parametrize("early", [False, True], ids=["later", "before the engine has agreed"])
@pytest.mark.parametrize("case", LATER)
def test_a_later_message_that_names_what_the_first_did_not_goes_nowhere(case: str, early: bool) -> None:
    said, code = LATER[case]
    with deployed({"a": {"models": ("m", "n")}}, keys=(tenant_key("x", "m"),), max_body_bytes=1024) as row:
        talk = row.talk
        talk.plays(None)  # type: ignore[arg-type]
        client = talk.client().says(handshake(key=key_of("x"))).says(create() + said if early else create())
        asked = talk.engines[0].asked
        if asked:  # (who breaks the protocol in the same read is not listened to at all)
            asked[0].says(SWITCH)
        if not early:
            client.says(create()).says(said)
        assert ends(client)[0] == code
        assert [len(frames(bytes(one.body))) for one in asked] == [2 - early] * len(asked)
        assert all(one.cancelled for one in asked)
        assert talk.stats.body_bytes_open == 0


def test_within_an_engines_message_its_session_ends_by_a_close_alone() -> None:
    with conversation(ENGINES) as talk:
        client, asked = opened(talk)
        asked.says(frame(TEXT, b'{"type":', masked=False, fin=False))
        client.says(create("n"))
        assert [kind for kind, _ in frames(bytes(client.passed_on))] == [TEXT, CLOSE]


def test_what_comes_before_the_engine_has_agreed_waits_in_order() -> None:
    with conversation(ENGINES) as talk:
        client = talk.client().says(handshake())
        client.says(create() + frame(PING, b"p") + says(type="response.steer") + create()[:9])
        assert client.paused
        client.says(create()[9:])
        asked = talk.engines[0].last.says(SWITCH)
        assert not client.paused
        assert [kind for kind, _ in frames(bytes(asked.body))] == [TEXT, PING, TEXT, TEXT]
        assert talk.stats.body_bytes_open == 0
        client.leaves()
        assert asked.cancelled


AFTER: dict[str, tuple[bytes, str, int]] = {
    "no such path": (NO % 404, "http_only", 1008),
    "FastAPI's": (NO % 403, "http_only", 1008),
    "it does not do that": (NO % 501, "http_only", 1008),
    "no room": (NO % 503, "engines_unavailable", 1013),
    "it has not expected it": (NO % 500, "http_only", 1008),
    "it fails": (NO % 502, "bad_gateway", 1011),
    "its key": (NO % 401, "bad_gateway", 1011),
    "a page": (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "http_only", 1008),
    "another's accept": (SWITCH.replace(ACCEPT, b"x"), "bad_gateway", 1011),
}


@pytest.mark.parametrize("case", AFTER)
def test_an_engine_that_opens_none_is_told_by_an_event_and_a_close(case: str) -> None:
    answer, code, close = AFTER[case]
    with conversation([replace(one, models=("m",), api_key="k") for one in ENGINES], max_retries=0) as talk:
        client = talk.client().says(handshake()).says(create())
        for _ in range(2):
            for engine in talk.engines:
                if engine.asked and not engine.last.closed:
                    engine.last.says(answer)
            talk.passes(0.1)
        assert ends(client) == (code, close)
        assert sum(talk.asked) == 1 + (code != "bad_gateway")
        assert all(engine.engine.breaker.failures == 0 for engine in talk.engines) or code == "bad_gateway"


def test_where_no_engine_takes_it_the_handshake_is_refused_for_a_while_so_that_agents_go_on_over_http() -> None:
    with conversation(ENGINES) as talk:
        for model, at in (("m", 0), ("n", 1)):
            assert talk.client().says(handshake()).seen.status == 101
            client = talk.client().says(handshake()).says(create(model))
            talk.engines[at].last.says(NO % 404)
            assert ends(client)[0] == "http_only"
        talk.client().says(handshake()).sees(426, "http_only")
        talk.passes(UNABLE_S)
        client, asked = opened(talk)
        asked.says(done(1, 1))
        client.leaves()
        assert talk.client().says(handshake()).seen.status == 101


@pytest.mark.parametrize(("status", "origin"), [(400, None), (413, None), (422, None), (500, None), (403, "https://a.example")])
def test_what_one_client_is_refused_for_is_not_remembered_of_the_engine(status: int, origin: str | None) -> None:
    with conversation(ENGINES[:1], cors_origins=["https://a.example"]) as talk:
        client = talk.client().says(handshake(*([] if origin is None else [("origin", origin)]))).says(create())
        talk.engines[0].last.says(NO % status)
        assert ends(client)[0] == "http_only"
        opened(talk)


def test_the_first_message_is_waited_for_as_long_as_a_session_may_be_silent() -> None:
    with conversation(ENGINES, between_bytes_timeout_s=4.0, request_timeout_s=1.0) as talk:
        client = talk.client().says(handshake()).says(create()[:-1])
        assert talk.stats.body_bytes_open > 50
        talk.passes(3.0)
        assert not client.closed
        talk.passes(2.0)
        assert talk.stats.body_bytes_open == 0
        assert ends(client) == ("request_timeout", 1008)
        client, asked = opened(talk)
        talk.passes(3.0)
        asked.says(server(PING, b""))
        talk.passes(3.0)
        assert not client.closed
        talk.passes(2.0)
        assert ends(client) == ("upstream_timeout", 1011)
        client, asked = opened(talk)
        asked.says(done(1, 1))
        talk.passes(5.0)
        *_, last, (kind, close) = told(client)
        assert (last["type"], kind, close[:2]) == ("response.completed", CLOSE, b"\x03\xe9"), "nobody waits for anything"


def test_it_ends_as_the_client_or_the_gateway_does() -> None:
    with conversation(ENGINES) as talk:
        client = talk.client().says(handshake()).says(frame(CLOSE, b"\x03\xe8"))
        assert (told(client), client.closed) == ([(CLOSE, b"\x03\xe8")], "eof")
        talk.client().says(handshake()).leaves()
        waiting = talk.client().says(handshake()).says(create())
        asked = talk.engines[0].last
        waiting.leaves()
        assert asked.cancelled
        closing = talk.client().says(handshake()).says(create() + frame(CLOSE, b""))
        assert (told(closing), closing.closed, talk.engines[0].last.cancelled) == ([(CLOSE, b"")], "eof", True)
        client, left = talk.client().says(handshake()), talk.client().says(handshake())
        (at_work, asked), (idle, over) = opened(talk), opened(talk)
        over.says(done(1, 1))
        talk.core.begin_drain()
        assert ends(client.says(create())) == ("shutting_down", 1001)
        assert ends(idle.says(create())) == ("shutting_down", 1001)
        asked.says(done(1, 1))
        assert told(at_work)[-1]["type"] == "response.completed"
        assert ends(at_work.says(create())) == ("shutting_down", 1001)
        talk.core.abort_all()
        assert ends(left) == ("shutting_down", 1001)
        assert {record["status"] for record in talk.records} == {101}


MADE = [
    b'{"type":"response.created","response":{"object":"response","id":"resp_of_x"}}',
    b'{"response":{"id":"resp_of_x","tools":[{"response":{"id":"resp_of_y"}}]},"sequence_number":0,"type":"response.created"}',
]


@pytest.mark.parametrize("said", MADE, ids=["type first", "type last"])
def test_what_it_makes_is_found_again_by_its_own_key_alone(said: bytes) -> None:
    keys = tenant_key("x"), tenant_key("y")
    with deployed({"a": {"models": ("m",)}, "b": {"models": ("m",)}}, keys=keys) as row:
        talk = row.talk
        talk.plays(None, None)  # type: ignore[arg-type]
        client = talk.client().says(handshake(key=key_of("x"))).says(create())
        at = talk.asked.index(1)
        asked = talk.engines[at].last.says(SWITCH)
        made = server(TEXT, said)
        asked.says(made[:25]).says(made[25:])
        for _ in range(3):
            other = talk.client().says(handshake(key=key_of("x"))).says(create(previous_response_id="resp_of_x"))
            assert talk.engines[at].last.closed is False
            other.leaves()
        assert talk.asked[1 - at] == 0
        asked_by_y = talk.client().says(handshake(key=key_of("y"))).says(create(previous_response_id="resp_of_x"))
        assert ends(asked_by_y)[0] == "response_not_found"
        responses = talk.core.responses
        assert sum(map(len, responses._owners.values())) == 1, "what its client has said of its own is no response"
        later, session = talk.client().says(handshake(key=key_of("y"))).says(create()), talk.engines
        for engine in session:
            if engine.asked and not engine.last.closed:
                engine.last.says(SWITCH)
        later.says(create(previous_response_id="resp_of_x"))
        assert ends(later)[0] == "response_not_found"
        client.leaves()


def test_engines_of_another_tenant_do_not_keep_it_from_being_said_before() -> None:
    with deployed({"a": {"models": ("m",)}, "b": {"models": ("m",), "tenant": "y"}}, keys=(tenant_key("x"),)) as row:
        talk = row.talk
        talk.plays(None, None)  # type: ignore[arg-type]
        client = talk.client().says(handshake(key=key_of("x"))).says(create())
        talk.engines[0].last.says(NO % 404)
        assert ends(client)[0] == "http_only"
        talk.client().says(handshake(key=key_of("x"))).sees(426, "http_only")


@pytest.mark.parametrize("first", [True, False])
def test_a_conversation_that_a_message_names_is_its_keys(first: bool) -> None:
    keys = tenant_key("x"), tenant_key("y")
    with deployed({"a": {"models": ("m",)}}, keys=keys) as row:
        talk = row.talk
        talk.plays(None)  # type: ignore[arg-type]
        named = create(conversation="conv_of_x")
        client = talk.client().says(handshake(key=key_of("x"))).says(named if first else create())
        talk.engines[0].last.says(SWITCH)
        if not first:
            client.says(named)
        asked_by_y = talk.client().says(handshake(key=key_of("y"))).says(named)
        assert ends(asked_by_y)[0] == "response_not_found"
        assert talk.asked == [1]
        client.leaves()


def test_what_an_engine_does_not_take_counts_as_held_and_its_client_is_not_read() -> None:
    with conversation(ENGINES) as talk:
        client, asked = opened(talk)
        asked.takes = QUEUED
        client.says(create())
        assert (client.paused, talk.stats.body_bytes_open) == (True, 1)  # (as the engine's hand has it)
        asked.drains()
        assert (client.paused, talk.stats.body_bytes_open) == (False, 0)
        client.leaves()


def test_a_session_has_no_heartbeats() -> None:
    with conversation(ENGINES, sse_heartbeat_s=2.0) as talk:
        client = talk.client().says(handshake()).says(create(stream=True))
        talk.passes(5.0)
        talk.engines[0].last.says(SWITCH).says(done(1, 1))
        assert [one["type"] for one in told(client)] == ["response.completed"]
        client.leaves()
        assert talk.records[0]["status"] == 101


def test_a_session_has_no_copies() -> None:
    mirrored = RouteConfig(model="m", mirror_to="n", mirror_percent=100)
    with conversation(ENGINES, routes=[mirrored]) as talk:
        opened(talk)
        talk.passes(1.0)
        assert talk.asked == [1, 0]


def test_over_http2_it_is_an_extended_connect() -> None:
    fields = [":method: CONNECT", ":protocol: websocket", ":scheme: http", ":path: /v1/responses", ":authority: peer",
              "sec-websocket-version: 13"]  # fmt: skip
    with conversation(ENGINES) as talk, h2_client(talk) as client:
        client.says(f.headers(1, f.fields(*fields)))
        assert ":status=200" in str(client.sees("HEADERS 1 :status=200"))
        client.says(f.data(1, create()[:20]), f.data(1, create()[20:]))
        asked = talk.engines[0].last
        key = asked.field(b"sec-websocket-key")
        assert key is not None
        asked.says(SWITCH.replace(ACCEPT, accept_of(key)) + server(TEXT, b'{"type":"response.created"}'))
        assert [kind for kind, _ in frames(bytes(asked.body))] == [TEXT]
        assert b"response.created" in client.sees("DATA 1").payload
        client.says(f.data(1, create("n")))
        assert b"invalid_parameter" in client.sees("DATA 1").payload
        assert asked.cancelled
