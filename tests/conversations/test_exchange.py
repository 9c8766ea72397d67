"""One exchange, wherever it stands, and whatever happens to it there: what the client sees, what the engine, what is written
down.

``WAYS`` bring a request to where it stands; ``EVENTS`` are what happens to it; ``ROWS`` has what follows, for each pair that
can be. Where the streams end is where all that was taken is back: ``conversation`` holds that for each row. (That a body which
is awaited is late at its own deadline, 408, is the HTTP/1 connection's own: ``tests/e2e/test_deadlines.py``.)
"""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import pytest

from fastgw.net.wire import DEAD, QUEUED
from tests.support.byhand.client import HandClient
from tests.support.conversation import Conversation, answering, conversation
from tests.support.requests import chat, request
from tests.support.scripts import ANSWER, DONE, EVENT, JSON_CHUNKED, LAST_CHUNK, SSE_HEAD, chunk, ok

OWN_S: Final = 20.0  # the client's own deadline
LIMITS: Final = ("first_byte_timeout_s", "between_bytes_timeout_s", "connect_timeout_s", "queue_timeout_s")
OWN: Final = [("x-request-timeout-ms", str(int(OWN_S * 1000)))]
HANDSHAKE: Final = request(
    "GET", "/v1/realtime", headers=[
        ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), *OWN,
    ],
)  # fmt: skip
SWITCH: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
UPLOAD: Final = (
    b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--b\r\n'
    b'content-disposition: form-data; name="file"; filename="a"\r\n\r\n'
)


# --- where it stands
def receiving(talk: Conversation, client: HandClient) -> None:
    client.says(chat(headers=OWN)[:-10])


def queued(talk: Conversation, client: HandClient) -> None:
    talk.client().says(chat())
    client.says(chat(headers=OWN))
    assert talk.waiting == 1


def connecting(talk: Conversation, client: HandClient) -> None:
    talk.engines[0].dial = "hangs"
    client.says(chat(headers=OWN))
    assert talk.asked == [0]


def waiting(talk: Conversation, client: HandClient) -> None:
    client.says(chat(headers=OWN))
    assert talk.asked == [1]


def uploading(talk: Conversation, client: HandClient) -> None:
    head = [("Content-Type", "multipart/form-data; boundary=b"), ("Content-Length", "100000"), *OWN]
    client.says(request("POST", "/v1/audio/transcriptions", headers=head) + UPLOAD)
    assert not talk.engines[0].last.whole


def relaying(talk: Conversation, client: HandClient) -> None:
    client.says(chat(stream=True, headers=OWN))
    talk.engines[0].last.says(SSE_HEAD, chunk(EVENT))
    assert client.seen.events()


def plain(talk: Conversation, client: HandClient) -> None:
    client.says(chat(headers=OWN))
    talk.engines[0].last.says(ok()[:-10])
    assert client.seen.body == ANSWER[:-10]


def tunnel(talk: Conversation, client: HandClient) -> None:
    client.says(HANDSHAKE)
    talk.engines[0].last.says(SWITCH)
    client.sees(101)


WAYS: Final = {
    one.__name__: one for one in (receiving, queued, connecting, waiting, uploading, relaying, plain, tunnel)
}  # fmt: skip


# --- what happens to it
def engine_says(*data: bytes) -> Callable[[Conversation, HandClient], object]:
    return lambda talk, client: talk.engines[0].last.says(*data)


EVENTS: Final[dict[str, Callable[[Conversation, HandClient], object]]] = {
    "the client leaves": lambda talk, client: client.leaves(),
    "the client resets": lambda talk, client: client.leaves("reset"),
    "the client stalls": lambda talk, client: client.stalls(),
    "its own deadline": lambda talk, client: talk.passes(OWN_S + 0.2),
    "five seconds": lambda talk, client: talk.passes(5.2),
    "the drain's time is over": lambda talk, client: (talk.core.begin_drain(), talk.core.abort_all()),
    "the gateway is closed": lambda talk, client: (talk.core.begin_drain(), talk.core.close_all()),
    "the engine closes": lambda talk, client: talk.engines[0].last.closes(),
    "the engine resets": lambda talk, client: talk.engines[0].last.closes("reset"),
    "the engine answers": engine_says(ok()),
    "the engine talks rubbish": engine_says(b"zz\r\n\r\n"),
}


class Row(NamedTuple):
    """``status``: of the client's answer, 0 = none came; ``ends``: how that ended ("" = it goes on). ``record``: status,
    outcome, error (None = no record yet). ``engine``: "kept" its connection, "cancelled", "-" = it was never asked, "" =
    it goes on."""

    status: int
    ends: str
    record: tuple[int, str, str] | None
    engine: str


STARTS: Final = ("receiving", "queued", "connecting")
GONE: Final = (499, "client_closed", "client_closed")
ROWS: Final[dict[tuple[str, str], Row]] = {
    ("receiving", "the client leaves"): Row(0, "", GONE, "-"),
    ("receiving", "the client resets"): Row(0, "", GONE, "-"),
    ("receiving", "its own deadline"): Row(504, "whole", (504, "error", "upstream_timeout"), "-"),
    ("receiving", "five seconds"): Row(0, "", None, "-"),
    ("receiving", "the drain's time is over"): Row(503, "whole", (503, "error", "shutting_down"), "-"),
    ("receiving", "the gateway is closed"): Row(0, "", GONE, "-"),
    ("queued", "the client leaves"): Row(0, "", GONE, "-"),
    ("queued", "the client resets"): Row(0, "", GONE, "-"),
    ("queued", "its own deadline"): Row(503, "whole", (503, "error", "queue_timeout"), "-"),
    ("queued", "five seconds"): Row(503, "whole", (503, "error", "queue_timeout"), "-"),
    ("queued", "the drain's time is over"): Row(503, "whole", (503, "error", "shutting_down"), "-"),
    ("queued", "the gateway is closed"): Row(0, "", GONE, "-"),
    ("connecting", "the client leaves"): Row(0, "", GONE, "-"),
    ("connecting", "the client resets"): Row(0, "", GONE, "-"),
    ("connecting", "its own deadline"): Row(504, "whole", (504, "error", "upstream_timeout"), "-"),
    ("connecting", "five seconds"): Row(0, "", None, "-"),
    ("connecting", "the drain's time is over"): Row(503, "whole", (503, "error", "shutting_down"), "-"),
    ("connecting", "the gateway is closed"): Row(0, "", GONE, "-"),
    ("waiting", "the client leaves"): Row(0, "", GONE, "cancelled"),
    ("waiting", "the client resets"): Row(0, "", GONE, "cancelled"),
    ("waiting", "its own deadline"): Row(504, "whole", (504, "error", "upstream_timeout"), "cancelled"),
    ("waiting", "five seconds"): Row(504, "whole", (504, "error", "upstream_timeout"), "cancelled"),
    ("waiting", "the drain's time is over"): Row(503, "whole", (503, "error", "shutting_down"), "cancelled"),
    ("waiting", "the gateway is closed"): Row(0, "", GONE, "cancelled"),
    ("waiting", "the engine closes"): Row(502, "whole", (502, "error", "bad_gateway"), "cancelled"),
    ("waiting", "the engine resets"): Row(502, "whole", (502, "error", "bad_gateway"), "cancelled"),
    ("waiting", "the engine answers"): Row(200, "whole", (200, "ok", ""), "kept"),
    ("waiting", "the engine talks rubbish"): Row(502, "whole", (502, "error", "bad_gateway"), "cancelled"),
    ("uploading", "the client leaves"): Row(0, "", GONE, "cancelled"),
    ("uploading", "the client resets"): Row(0, "", GONE, "cancelled"),
    ("uploading", "its own deadline"): Row(504, "whole", (504, "error", "upstream_timeout"), "cancelled"),
    ("uploading", "five seconds"): Row(0, "", None, ""),
    ("uploading", "the drain's time is over"): Row(503, "whole", (503, "error", "shutting_down"), "cancelled"),
    ("uploading", "the gateway is closed"): Row(0, "", GONE, "cancelled"),
    ("uploading", "the engine closes"): Row(502, "whole", (502, "error", "bad_gateway"), "cancelled"),
    ("uploading", "the engine resets"): Row(502, "whole", (502, "error", "bad_gateway"), "cancelled"),
    ("uploading", "the engine answers"): Row(200, "whole", (200, "ok", ""), "cancelled"),
    ("uploading", "the engine talks rubbish"): Row(502, "whole", (502, "error", "bad_gateway"), "cancelled"),
    ("relaying", "the client leaves"): Row(200, "", (200, "client_closed", "client_closed"), "cancelled"),
    ("relaying", "the client resets"): Row(200, "", (200, "client_closed", "client_closed"), "cancelled"),
    ("relaying", "the client stalls"): Row(200, "reset", (200, "client_stalled", ""), "cancelled"),
    ("relaying", "its own deadline"): Row(200, "eof", (200, "upstream_timeout", "upstream_timeout"), "cancelled"),
    ("relaying", "five seconds"): Row(200, "eof", (200, "upstream_timeout", "upstream_timeout"), "cancelled"),
    ("relaying", "the drain's time is over"): Row(200, "eof", (200, "draining", "shutting_down"), "cancelled"),
    ("relaying", "the gateway is closed"): Row(200, "eof", (200, "client_closed", "client_closed"), "cancelled"),
    ("relaying", "the engine closes"): Row(200, "eof", (200, "truncated", "bad_gateway"), "cancelled"),
    ("relaying", "the engine resets"): Row(200, "eof", (200, "truncated", "bad_gateway"), "cancelled"),
    ("relaying", "the engine answers"): Row(200, "eof", (200, "truncated", "bad_gateway"), "cancelled"),
    ("relaying", "the engine talks rubbish"): Row(200, "eof", (200, "truncated", "bad_gateway"), "cancelled"),
    ("plain", "the client leaves"): Row(200, "", (200, "client_closed", "client_closed"), "cancelled"),
    ("plain", "the client resets"): Row(200, "", (200, "client_closed", "client_closed"), "cancelled"),
    ("plain", "the client stalls"): Row(200, "reset", (200, "client_stalled", ""), "cancelled"),
    ("plain", "its own deadline"): Row(200, "reset", (200, "upstream_timeout", "upstream_timeout"), "cancelled"),
    ("plain", "five seconds"): Row(200, "reset", (200, "upstream_timeout", "upstream_timeout"), "cancelled"),
    ("plain", "the drain's time is over"): Row(200, "reset", (200, "draining", "shutting_down"), "cancelled"),
    ("plain", "the gateway is closed"): Row(200, "eof", (200, "client_closed", "client_closed"), "cancelled"),
    ("plain", "the engine closes"): Row(200, "reset", (200, "truncated", "bad_gateway"), "cancelled"),
    ("plain", "the engine resets"): Row(200, "reset", (200, "truncated", "bad_gateway"), "cancelled"),
    ("plain", "the engine answers"): Row(200, "whole", (200, "ok", ""), "cancelled"),
    ("plain", "the engine talks rubbish"): Row(200, "", None, ""),
    ("tunnel", "the client leaves"): Row(101, "whole", (101, *GONE[1:]), "cancelled"),
    ("tunnel", "the client resets"): Row(101, "whole", (101, *GONE[1:]), "cancelled"),
    ("tunnel", "its own deadline"): Row(101, "length", None, ""),
    ("tunnel", "five seconds"): Row(101, "whole", (101, "ok", ""), "cancelled"),
    ("tunnel", "the drain's time is over"): Row(101, "whole", (101, "draining", "shutting_down"), "cancelled"),
    ("tunnel", "the gateway is closed"): Row(101, "whole", (101, *GONE[1:]), "cancelled"),
    ("tunnel", "the engine closes"): Row(101, "whole", (101, "truncated", "bad_gateway"), "cancelled"),
    ("tunnel", "the engine resets"): Row(101, "whole", (101, "truncated", "bad_gateway"), "cancelled"),
    ("tunnel", "the engine answers"): Row(101, "length", None, ""),
    ("tunnel", "the engine talks rubbish"): Row(101, "length", None, ""),
}  # fmt: skip


def became(talk: Conversation, client: HandClient, request_id: bytes) -> Row:
    seen = client.answers[-1] if client.answers else None
    ends = "" if seen is None else "whole" if seen.complete and client.sink is None else seen.how_ended.replace("open", "")
    found = [(one["status"], one["outcome"], one["error"]) for one in talk.records if one["request_id"] == request_id]
    assert len(found) <= 1
    mine = [asked for asked in talk.engines[0].asked if asked.request_id == request_id]
    engine = "-" if not mine else "kept" if mine[-1].kept else "cancelled" if mine[-1].cancelled else ""
    return Row(seen.status if seen is not None else 0, ends, found[0] if found else None, engine)


def played(way: str, event: str) -> Row:
    limit_s = 5.0 if event != "its own deadline" else 100.0
    settings: dict[str, Any] = {**dict.fromkeys(LIMITS, limit_s), "policy": "ordered", "retry_fresh": False}
    with conversation(1, **settings, engine_max_concurrent=int(way == "queued")) as talk:
        client = talk.client()
        WAYS[way](talk, client)
        exchange: Any = client.sink
        EVENTS[event](talk, client)
        talk.loop.settle()
        return became(talk, client, exchange.request_id)


def test_every_pair_that_can_be_has_a_row() -> None:
    def can_be(way: str, event: str) -> bool:
        if event == "the client stalls":
            return way in ("relaying", "plain")
        return not (event.startswith("the engine") and way in STARTS)

    assert [pair for pair in itertools.product(WAYS, EVENTS) if can_be(*pair)] == list(ROWS)


@pytest.mark.parametrize(("way", "event"), ROWS, ids=str)
def test_what_follows(way: str, event: str) -> None:
    assert played(way, event) == ROWS[way, event]


# --- a body on its way in
BODY: Final = chat(content="word " * 2000).partition(b"\r\n\r\n")[2]
PACKED: Final = gzip.compress(BODY)
LARGE: Final = chat(content="word " * 40_000).partition(b"\r\n\r\n")[2]  # more than one read's worth


def post(body: bytes, *headers: tuple[str, str], **more: Any) -> bytes:
    return request("POST", "/v1/chat/completions", headers=[("Content-Type", "application/json"), *headers], body=body, **more)


BODIES: Final[dict[str, tuple[bytes, int, bytes]]] = {
    "by its length": (post(BODY), 200, BODY),
    "in chunks": (post(BODY, chunked=[1, 1000, 7]), 200, BODY),
    "packed": (post(PACKED, ("Content-Encoding", "gzip")), 200, BODY),
    "packed, in chunks": (post(PACKED, ("Content-Encoding", "gzip"), chunked=[11]), 200, BODY),
    "large": (post(LARGE), 200, LARGE),
    "too large, as its head says": (post(b"x" * 300_000), 413, b""),
    "too large, in chunks": (post(b"x" * 300_000, chunked=[60_000]), 413, b""),
    "too large, once unpacked": (post(gzip.compress(b"x" * 300_000), ("Content-Encoding", "gzip")), 413, b""),
    "packed badly": (post(b"x" * 100, ("Content-Encoding", "gzip")), 400, b""),
    "no JSON": (post(b"{"), 400, b""),
    "bad chunks": (post(BODY, chunked=[100]).replace(b"64\r\n", b"zz\r\n", 1), 400, b""),
}


@pytest.mark.parametrize("size", [100_000_000, 1000, 17])
@pytest.mark.parametrize(("data", "status", "body"), BODIES.values(), ids=BODIES)
def test_a_body_on_its_way_in(data: bytes, status: int, body: bytes, size: int) -> None:
    """Whole, or in pieces of any size: the engine gets it whole, or nothing at all."""
    with conversation(1, answering(ok()), max_body_bytes=250_000) as talk:
        client = talk.client()
        head = data.index(b"\r\n\r\n") + 4
        at = min(size, head) if size < head else size
        client.says(data[:at])
        while at < len(data) and not client.answers:
            client.says(data[at : at + size])
            at += size
        client.sees(status)
        assert [asked.body for asked in talk.engines[0].asked] == ([body] if status == 200 else [])


# --- an engine is found, or is not
FINDS: Final[dict[str, tuple[int, str, dict[str, Any], int, str | None]]] = {
    "it answers the dial": (1, "ok", {}, 200, None),
    "it refuses the dial": (1, "refused", {}, 502, "bad_gateway"),
    "the dial takes too long": (1, "timeout", {}, 504, "upstream_timeout"),
    "there is none": (0, "ok", {}, 503, "no_engines"),
}


@pytest.mark.parametrize(("engines", "dial", "settings", "status", "code"), FINDS.values(), ids=FINDS)
def test_an_engine_is_found_or_not(engines: int, dial: Any, settings: dict[str, Any], status: int, code: str | None) -> None:
    with conversation(engines, *[answering(ok())] * engines, **settings) as talk:
        for engine in talk.engines:
            engine.dial = dial
        answer = talk.ask(chat())
        assert answer.status == status
        assert code is None or answer.error["code"] == code
        assert [engine.parked for engine in talk.engines] == [int(status == 200)] * engines


@pytest.mark.parametrize(("full", "status", "code"), [("reject", 429, "at_capacity"), ("queue", 503, "queue_timeout")])
def test_an_engine_is_full(full: str, status: int, code: str) -> None:
    with conversation(1, engine_max_concurrent=1, on_capacity=full, queue_timeout_s=2.0) as talk:
        first = talk.client().says(chat())
        answer = talk.ask(chat())
        assert (answer.status, answer.error["code"]) == (status, code)
        assert int(answer.header("retry-after") or 0) >= 1
        talk.engines[0].last.says(ok())
        first.sees(200)


# --- an answer on its way down
STREAM: Final = EVENT * 3 + DONE
ANSWERS: Final[dict[str, tuple[bytes, str, int, bytes, bool]]] = {
    "by its length": (ok(), "POST", 200, ANSWER, True),
    "nothing, by its length": (ok(b""), "POST", 200, b"", True),
    "in chunks": (JSON_CHUNKED + chunk(ANSWER[:9]) + chunk(ANSWER[9:]) + LAST_CHUNK, "POST", 200, ANSWER, True),
    "a stream": (SSE_HEAD + b"".join(map(chunk, (EVENT, EVENT, EVENT, DONE))) + LAST_CHUNK, "POST", 200, STREAM, True),
    "a stream in one chunk": (SSE_HEAD + chunk(STREAM) + LAST_CHUNK, "POST", 200, STREAM, True),
    "to the end": (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + ANSWER, "POST", 200, ANSWER, False),
    "204": (b"HTTP/1.1 204 No\r\n\r\n", "POST", 204, b"", True),
    "its engine closes": (ok(ANSWER, b"connection: close"), "POST", 200, ANSWER, False),
    "behind others": (b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 100 Go\r\n\r\n" + ok(), "POST", 200, ANSWER, True),
}  # fmt: skip


@pytest.mark.parametrize("size", [1 << 20, 100, 1])
@pytest.mark.parametrize(("data", "method", "status", "body", "kept"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_on_its_way_down(data: bytes, method: str, status: int, body: bytes, kept: bool, size: int) -> None:
    """However it is framed and whatever the reads are, it comes down whole; and the connection is kept where it can be."""
    asks = chat() if body or status == 204 else chat(path="/tokenize")  # (a generation is never nothing)
    with conversation(1) as talk:
        client = talk.client().says(asks)
        asked = talk.engines[0].last
        asked.says(*[data[at : at + size] for at in range(0, len(data), size)])
        if not kept:
            asked.closes()
        assert client.sees(status).body == body
        assert (asked.kept, talk.engines[0].parked) == (kept, int(kept))
        [record] = talk.records
        assert (record["status"], record["outcome"], record["bytes_out"]) == (status, "ok", client.sent)
        client.says(asks)  # and another request may follow
        assert talk.asked == [2]
        assert talk.engines[0].last.kept_before is kept


def test_the_answer_to_head_has_no_body() -> None:
    with conversation(1) as talk:
        answer = talk.client().says(request("HEAD", "/healthz")).sees(200)
        assert (answer.body, answer.header("content-length")) == (b"", "2")


# --- a client that does not keep up
def test_an_engine_is_held_while_its_client_does_not_read() -> None:
    with conversation(1, between_bytes_timeout_s=5.0) as talk:
        client = talk.client().says(chat(stream=True))
        asked = talk.engines[0].last.says(SSE_HEAD + chunk(EVENT))
        client.takes = QUEUED
        asked.says(chunk(EVENT))
        assert asked.held
        asked.says(chunk(EVENT), chunk(DONE) + LAST_CHUNK)  # nobody reads these yet
        assert client.seen.body == EVENT * 2
        talk.passes(60.0)  # nothing is due from an engine that is not read
        client.drains()
        assert not asked.held
        assert client.sees(200).body == EVENT * 3 + DONE


def test_a_write_that_fails_is_a_client_that_has_left() -> None:
    with conversation(1) as talk:
        client = talk.client().says(chat(stream=True))
        asked = talk.engines[0].last.says(SSE_HEAD + chunk(EVENT))
        client.takes = DEAD
        asked.says(chunk(EVENT))
        assert asked.cancelled
        [record] = talk.records
        assert (record["status"], record["outcome"]) == (200, "client_closed")


# --- an upgraded protocol
def test_a_tunnel_passes_bytes_both_ways() -> None:
    with conversation(1) as talk:
        client = talk.client().says(HANDSHAKE)
        asked = talk.engines[0].last.says(SWITCH + b"\x82\x01a")
        assert client.sees(101)
        asked.says(b"\x82\x01b")
        assert bytes(client.passed_on) == b"\x82\x01a\x82\x01b"
        client.says(b"\x82\x81\0\0\0\0c")
        assert asked.body == b"\x82\x81\0\0\0\0c"
        client.leaves()
        assert asked.cancelled


GOES: Final[dict[str, tuple[Callable[[Conversation, HandClient], object], int]]] = {
    name: (EVENTS[name], code)
    for name, code in (
        ("the engine closes", 1011), ("the engine resets", 1011), ("five seconds", 1011), ("the drain's time is over", 1001),
    )
}  # fmt: skip


@pytest.mark.parametrize(("said", "whole"), [
    (b"", True),
    (b"\x82\x01a", True),
    (b"\x02\x01a", True),  # (a close may stand between the frames of a message: RFC 6455 section 5.4)
    (b"\x82\x05ab", False),
    (b"\x82", False),
    (b"\x82\x7e\x01", False),
    (b"\xf2\x00", False),  # no frame: nobody knows where it ends
    (b"\x88\x02\x03\xe8", False),  # the engine has said it
    (b"\x88\x02\x03", False),
])  # fmt: skip
@pytest.mark.parametrize("event", GOES)
def test_a_session_that_ends_says_why_unless_that_would_fall_into_a_frame(event: str, said: bytes, whole: bool) -> None:
    happens, code = GOES[event]
    with conversation(1, between_bytes_timeout_s=4.0) as talk:
        client = talk.client().says(HANDSHAKE)
        talk.engines[0].last.says(SWITCH + said)
        happens(talk, client)
        talk.loop.settle()
        assert client.sink is None
        assert client.closed == "eof" or not whole
        passed = bytes(client.passed_on)
        assert passed.startswith(said)
        behind = passed[len(said) :]
        assert (behind[:1], behind[2:4]) == ((b"\x88", code.to_bytes(2)) if whole else (b"", b""))
        assert not whole or len(behind) == 2 + behind[1]
