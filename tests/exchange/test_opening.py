"""What the beginning of a stream is, before any of it goes down, and which answer an error is that comes first."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastgw.exchange.endpoints import EndpointTable
from fastgw.exchange.opening import BEGINS, ENDS, REFUSES, UNREADABLE, WAITS, Opening, is_held
from fastgw.protocol.body import source_of
from fastgw.protocol.http1.client import ResponseReader
from tests.support.scripts import EVENT, LAST_CHUNK, SSE_HEAD, chunk

JSON_HEAD = SSE_HEAD.replace(b"text/event-stream", b"application/json")
NDJSON_HEAD = SSE_HEAD.replace(b"text/event-stream", b"application/x-ndjson")
FAILS = b'data: {"error":{"message":"no","type":"server_error","code":503}}\n\n'
MAX_OPENING_BYTES = 65536  # (a name of compiled code's alone)
LINE = b'{"model":"m","message":{"role":"assistant","content":"a"},"done":false}\n'


def opening(lines: bool = False, framed: bool = True, path: str = "/v1/chat/completions", head: bytes = b"") -> Opening:
    head = head or (NDJSON_HEAD if lines else SSE_HEAD)
    found = ResponseReader().feed(head if framed else head.replace(b"transfer-encoding: chunked\r\n", b""))
    endpoint = EndpointTable().find(path.encode())
    assert found is not None
    assert endpoint is not None
    return Opening(found, source_of(found, b"POST"), endpoint)


def split(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def verdict(parts: list[bytes], lines: bool = False) -> tuple[int, int]:
    """Which it is in the end, and after how many bytes."""
    begins = opening(lines)
    size = 0
    for part in parts:
        size += len(part)
        found = begins.feed(part)
        assert begins.came == b"".join(parts)[:size], "nothing of it is lost, for whoever passes it on"
        if found != WAITS:
            return found, size
    return WAITS, size


@pytest.mark.parametrize("framed", [True, False])
@pytest.mark.parametrize(
    ("said", "lines", "expected"),
    [
        (EVENT, False, BEGINS), (b": ping\n\n: ping\r\n\r\n\n" + EVENT, False, BEGINS),
        (b"retry: 10\n\n" + EVENT, False, BEGINS),
        (b"\xef\xbb\xbf" + EVENT, False, BEGINS), (b"data: [DONE]\n\n", False, BEGINS), (b"data\n\n", False, BEGINS),
        (b"event: message_start\r\ndata: {}\r\n\r\n", False, BEGINS), (EVENT.replace(b"word", b"error"), False, BEGINS),
        (EVENT.replace(b"null}", b'null}],"error":null,"x":[0'), False, BEGINS),
        (b": data: x\n\n", False, WAITS), (b"event: ping\n\n", False, WAITS), (EVENT[:-1], False, WAITS), (b"", False, WAITS),
        (FAILS, False, REFUSES), (b": ping\n\n" + FAILS, False, REFUSES), (b"\xef\xbb\xbf" + FAILS, False, REFUSES),
        (FAILS.replace(b"\n", b"\r\n"), False, REFUSES), (FAILS.replace(b"{\"m", b"{\ndata: \"m"), False, REFUSES),
        (b'data: {"type":"error"}\n\n', False, REFUSES), (b'data: {"type":"errors","x":1}\n\n', False, BEGINS),
        (b'error: {"code":400}\n\ndata: [DONE]\n\n', False, REFUSES), (b'data: {"error":""}\n\n', False, BEGINS),
        (b'{"error":{}}\n', True, BEGINS), (b'data: {"choices":[],"error":{"code":502}}\n\n', False, REFUSES),
        (b"event: error\n\n", False, REFUSES), (b'event:error\ndata: {"message":"no"}\n\n', False, REFUSES),
        (LINE, True, BEGINS), (b"\n \r\n" + LINE, True, BEGINS), (LINE[:-1], True, WAITS), (b"\n\n", True, WAITS),
        (b'{"error":"no"}\n', True, REFUSES), (b'{"error":null}\n', True, BEGINS), (b"[1]\n", True, BEGINS),
    ],
)  # fmt: skip
def test_however_it_is_split(said: bytes, lines: bool, expected: int, framed: bool) -> None:
    """Whole, byte by byte, in chunks of one byte; and what follows it makes no other of it."""
    for payload in (said, *[said + more for more in (EVENT, FAILS) if expected != WAITS and not lines]):
        for size in (1, 3, len(payload) or 1):
            wire = b"".join(map(chunk, split(payload, size))) if framed else payload
            for read in (1, 7, len(wire) or 1):
                begins = opening(lines, framed)
                found = WAITS
                for part in split(wire, read):
                    found = begins.feed(part)
                    if found != WAITS:
                        break
                assert found == expected, (payload, size, read)
                assert wire.startswith(begins.came)


def test_the_end_of_a_message_ends_the_wait() -> None:
    """Without an event, unless the last bytes are one all the same: a line of JSON needs no end, and an error is one."""
    assert verdict([LAST_CHUNK]) == (ENDS, 5)
    assert verdict([chunk(EVENT[:-1]), LAST_CHUNK])[0] == ENDS
    assert verdict([chunk(EVENT) + LAST_CHUNK])[0] == BEGINS
    assert verdict([chunk(FAILS[:-1]), LAST_CHUNK])[0] == REFUSES
    assert verdict([chunk(LINE[:-1]), LAST_CHUNK], True)[0] == BEGINS
    assert verdict([chunk(LINE[:-2]), LAST_CHUNK], True)[0] == ENDS
    for how in ("fin", "reset"):
        for said, found in ((b": ping\n\n", ENDS), (EVENT[:-1], ENDS), (FAILS[:-1], REFUSES if how == "fin" else ENDS)):
            ends = opening(framed=False)
            assert (ends.feed(said), ends.eof(how)) == (WAITS, found)
    cut = opening()
    assert (cut.feed(chunk(b": ping\n\n")), cut.eof("fin")) == (WAITS, ENDS)


def test_it_waits_for_so_many_bytes_and_no_more() -> None:
    ping = chunk(b": ping\n\n")
    found, size = verdict([ping] * (MAX_OPENING_BYTES // len(ping) + 2))
    assert (found, size > MAX_OPENING_BYTES, size <= MAX_OPENING_BYTES + len(ping)) == (BEGINS, True, True)
    assert verdict([chunk(b"x" * MAX_OPENING_BYTES)])[0] == BEGINS
    assert verdict([chunk(b"x" * MAX_OPENING_BYTES)], True)[0] == BEGINS


def test_what_is_no_body_cannot_be_read() -> None:
    broken = opening()
    assert (broken.feed(chunk(b": ping\n\n")), broken.feed(b"zz\r\n")) == (WAITS, UNREADABLE)
    assert "chunk" in broken.why
    assert opening().feed(b"5\r\n" + EVENT) == UNREADABLE, "the event is no part of its chunk"
    for said, found in ((EVENT, BEGINS), (FAILS, REFUSES)):
        assert opening().feed(chunk(said) + b"zz\r\n") == found, "what came before that did"


OPENAI, ANTHROPIC, OLLAMA_CHAT, TGI_STREAM = "/v1/chat/completions", "/v1/messages", "/api/chat", "/generate_stream"
GATEWAYS = "The engine did not answer properly."


def error(**fields: Any) -> dict[str, Any]:
    return {"error": fields}


@pytest.mark.parametrize(
    ("path", "said", "status", "body"),
    [
        (OPENAI, error(message="no", code=400), 400, ...), (OPENAI, error(message="no", code="429"), 429, ...),
        (OPENAI, error(message="no", code=499), 502, ...), (OPENAI, error(message="no", code="499"), 502, ...),
        (OPENAI, error(message="no", code=200), 502, ...), (OPENAI, error(message="no", code=True), 502, ...),
        (OPENAI, error(message="no"), 502, ...), (OPENAI, error(message="no", type="BadRequestError"), 400, ...),
        (OPENAI, error(message="no", type="server_error", code="upstream_timeout"), 504, ...),
        (OPENAI, error(message="no", type="x", code="context_length_exceeded"), 400, ...),
        (OPENAI, {"error": "no"}, 502,
         error(message="no", type="upstream_error", param=None, code=None)),
        (OPENAI, {"type": "error", "code": "server_error", "message": "no", "param": None}, 500,
         error(message="no", type="upstream_error", param=None, code="server_error")),
        (OPENAI, {"type": "response.failed", "response": error(code="rate_limit_exceeded", message="no")}, 429,
         error(message="no", type="rate_limit_error", param=None, code="rate_limit_exceeded")),
        (OPENAI, {"type": "response.failed", "response": error(code="invalid_prompt", message="no")}, 400,
         error(message="no", type="invalid_request_error", param=None, code="invalid_prompt")),
        (OPENAI, {"type": "response.failed", "response": {"error": None}}, 502,
         error(message=..., type="upstream_error", param=None, code=None)),
        (ANTHROPIC, {"type": "error", **error(type="overloaded_error", message="no")}, 529, ...),
        (ANTHROPIC, {"type": "error", **error(type="invalid_request_error", message="no")}, 400, ...),
        (ANTHROPIC, error(message="no", type="BadRequestError", code=400), 400,
         {"type": "error", **error(type="BadRequestError", message="no")}),
        (ANTHROPIC, {"error": 5}, 502, {"type": "error", **error(type="api_error", message=...)}),
        (OPENAI, {"code": 400, "message": "no", "type": "invalid_request_error"}, 400,
         error(message="no", type="invalid_request_error", param=None, code=400)),
        (OPENAI, error(message="no", http_status_code=422), 422, ...),
        (OLLAMA_CHAT, {"error": "no"}, 502, ...), (TGI_STREAM, {"error": "no", "error_type": "template_error"}, 422, ...),
        (TGI_STREAM, {"error": "no", "error_type": "overloaded"}, 429, ...),
    ],
)  # fmt: skip
def test_an_error_is_the_answer_that_it_would_have_been(path: str, said: dict[str, Any], status: int, body: Any) -> None:
    begins = opening()
    data = json.dumps(said).encode()
    assert begins.feed(chunk(b"event: error\ndata: " + data + b"\n\n")) == REFUSES
    endpoint = EndpointTable().find(path.encode())
    assert endpoint is not None
    head, found = begins.refusal(endpoint)
    assert (head.status, head.content_length, head.json, head.keep_alive) == (status, len(found), True, False)
    assert head.status_line.startswith(b"HTTP/1.1 %d " % status)
    assert head.get_all(b"content-type") == (b"application/json",)
    if body is ...:
        assert found == data, "in its engine's own words"
    else:
        told = json.loads(found)
        if body["error"]["message"] is ...:
            assert told["error"].pop("message")
            del body["error"]["message"]
        assert told == body


@pytest.mark.parametrize("data", [b"", b"data: out of memory\n", b"data: " + b"[" * 5000 + b"\n", b"data: {\n"])
@pytest.mark.parametrize("path", [OPENAI, ANTHROPIC])
def test_one_that_says_nothing_is_a_bad_gateway(data: bytes, path: str) -> None:
    begins = opening()
    assert begins.feed(chunk(b"event: error\n" + data + b"\n")) == REFUSES
    endpoint = EndpointTable().find(path.encode())
    assert endpoint is not None
    head, body = begins.refusal(endpoint)
    assert head.status == 502
    assert json.loads(body)["error"]["message"]
    assert b"memory" not in body


@pytest.mark.parametrize(
    ("path", "head", "waits"),
    [
        (OPENAI, SSE_HEAD, True), (TGI_STREAM, SSE_HEAD, True), (OLLAMA_CHAT, NDJSON_HEAD, True), (OPENAI, NDJSON_HEAD, False),
        (OPENAI, SSE_HEAD.replace(b"transfer-encoding: chunked", b"content-length: 9"), True),
        (OPENAI, SSE_HEAD[:-2] + b"content-encoding: gzip\r\n\r\n", False), ("/v1/up", SSE_HEAD, False),
        (OPENAI, SSE_HEAD[:-2] + b"Content-Encoding:\tidentity \r\nx-a: b\r\n\r\n", True),
        (OPENAI, SSE_HEAD[:-2] + b"content-encoding: identity, gzip\r\n\r\n", False),
        (OPENAI, SSE_HEAD[:-2] + b"x-original-content-encoding: gzip\r\n\r\n", True),
        (OPENAI, SSE_HEAD[:-2] + b"content-encoding: identity\r\ncontent-encoding: br\r\n\r\n", False),
        (OLLAMA_CHAT, JSON_HEAD, True), ("/v1/up", JSON_HEAD, False), (OPENAI, JSON_HEAD.replace(b"200", b"422"), False),
    ],
)  # fmt: skip
def test_which_answers_are_streams(path: str, head: bytes, waits: bool) -> None:
    endpoint = EndpointTable(["/v1/up"]).find(path.encode())
    found = ResponseReader().feed(head)
    assert endpoint is not None
    assert found is not None
    assert is_held(endpoint, found, source_of(found, b"POST"), b"") == waits
