"""Heads: the compiled scanner, the Python one, httptools and h11. What any of them would frame differently is refused."""

from __future__ import annotations

import random
import re
from typing import Any

import httptools

from fastgw.accel.refusals import Refusal
from fastgw.errors import GatewayError
from fastgw.protocol.http1 import client, server
from fastgw.protocol.http1.reference import h11_verdict
from tests.fuzz.lines import REQUEST_FIELDS, REQUEST_LINES, RESPONSE_FIELDS, RESPONSE_LINES
from tests.fuzz.sides import native, python, some_ways
from tests.support import heads_model

HEADS = "fastgw.accel.heads"
NATIVE = native(HEADS)
PYTHON = python(HEADS)
JUDGES = "fastgw.accel.judges"
NATIVE_JUDGES = native(JUDGES)
PYTHON_JUDGES = python(JUDGES, HEADS)
PYTHON_SERVER = python("fastgw.protocol.http1.server", HEADS, JUDGES)
PYTHON_CLIENT = python("fastgw.protocol.http1.client", HEADS, JUDGES)

END = b"\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: n\r\n\r\n"
MAX_BODY_BYTES = 64  # what is sent of a body that is announced longer


def seeds() -> list[bytes]:
    found = [line + b"\r\nHost: a" for line in REQUEST_LINES] + list(RESPONSE_LINES)
    found += [b"POST / HTTP/1.1\r\nHost: a\r\n" + field for field in REQUEST_FIELDS]
    found += [b"HTTP/1.1 200 OK\r\n" + field for field in RESPONSE_FIELDS]
    chance = random.Random(1)
    for _ in range(40):
        found.append(b"\r\n".join([REQUEST_LINES[0], b"Host: a", *chance.sample(REQUEST_FIELDS[3:44], 6)]))
        found.append(b"\r\n".join([RESPONSE_LINES[0], *chance.sample(RESPONSE_FIELDS[:21], 5)]))
    return [*found, *(head + END + b"hello" for head in found[::5]), *(head + END + NEXT for head in found[1::5])]


def words() -> list[bytes]:
    names = {field.partition(b":")[0] + b":" for field in (*REQUEST_FIELDS, *RESPONSE_FIELDS) if b":" in field}
    joints = {b"\r\n", END, b"\r\nContent-Length: ", b"\r\nTransfer-Encoding: chunked", b" HTTP/1.1"}
    return sorted({*joints, *names, *REQUEST_LINES, *RESPONSE_LINES, *REQUEST_FIELDS, *RESPONSE_FIELDS})


def check(data: bytes) -> None:
    scan_alike(data)
    end = data.find(END)
    head = data[:end] if end >= 0 else data
    requests_alike(head)
    responses_alike(head)
    read_alike(server.RequestReader, PYTHON_SERVER.RequestReader, data)
    read_alike(client.ResponseReader, PYTHON_CLIENT.ResponseReader, data)


def scan_alike(data: bytes) -> None:
    """The twins of the scanner: the same verdict and the same values, of a head alone and of what a connection reads."""
    for name in ("scan_request", "scan_response"):
        one, two = getattr(PYTHON, name), getattr(NATIVE, name)
        assert repr(one(data)) == repr(two(data)), (name, data)
        end = len(data) * 2 // 3
        assert repr(one(data, end)) == repr(two(data, end)), (name, data, end)
        assert repr(one(data, -1, 3)) == repr(two(data, -1, 3)), (name, data, 3)
    for name in ("RequestScanner", "ResponseScanner"):
        one, two = getattr(PYTHON, name)(2000, 20), getattr(NATIVE, name)(2000, 20)
        last = None, None
        for turn in turns(data):
            heads = one.read(turn), two.read(turn)
            assert repr(heads[0]) == repr(heads[1]), (name, data, turn)
            if heads[0] is not None:
                assert one.end == two.end, (name, data, turn)
                assert (heads[0] is last[0]) == (heads[1] is last[1]), (name, data, turn)
            last = heads


def turns(data: bytes) -> list[bytes]:
    """What a connection may read next when it has read ``data``: the same, with other lengths, with more, with less."""
    chance = random.Random(data)
    whole = data if END in data else data + END
    found = [whole, whole + b"body", whole]
    lengths = (b"7", b"%018d" % chance.randrange(10**18), b"%019d" % chance.randrange(10**19), b"", b"1 ", b"0", b"+1")
    found += [re.sub(rb"(?i)(content-length:[ \t]*)[0-9]+", rb"\g<1>" + length, whole) for length in lengths]
    at = chance.randrange(len(whole))
    return [*found, whole[:at], whole[:at] + b"9" + whole[at:], whole]


def read_alike(running: type[Any], other: type[Any], data: bytes) -> None:
    """A connection's reader: the same verdict, head and rest from both twins, however the bytes come."""
    expected = read(running(), [data])
    for pieces in some_ways(data):
        for reader in (running(), other()):
            got = read(reader, pieces)
            assert repr(got) == repr(expected), (data, pieces, got, expected)


def read(reader: Any, pieces: list[bytes]) -> tuple[str, Any, bytes]:
    """The error's kind, ``ok`` or ``more``; the head; what followed it."""
    head = None
    rest = b""
    for piece in pieces:
        if head is not None:
            rest += piece
            continue
        try:
            head = reader.feed(piece)
        except GatewayError as error:
            return error.kind.name, None, b""
        if head is not None:
            rest = reader.rest
    return ("ok" if head is not None else "more"), head, rest


class _Framing:
    """Where httptools sees the message end."""

    def __init__(self) -> None:
        self.body = b""
        self.ended = False

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.ended = True


def httptools_frames(parser: type[Any], head: bytes, body: bytes) -> _Framing | None:
    """What httptools makes of one message; None = it refuses it."""
    found = _Framing()
    reader = parser(found)
    try:
        reader.feed_data(head + END)
        if body:
            assert not found.ended, (head, "ended before its body")
            reader.feed_data(body)
    except httptools.HttpParserUpgrade:
        found.ended = True
    except httptools.HttpParserError:
        return None
    return found


def _body(head: Any) -> tuple[bytes, bytes, bool]:
    """A body for ``head`` as it is framed, its payload, and whether that is all of it."""
    if head.chunked:
        return b"5\r\nhello\r\n0\r\n\r\n", b"hello", True
    length = max(head.content_length, 0)
    sent = b"z" * min(length, MAX_BODY_BYTES)
    return sent, sent, len(sent) == length


def judged_alike(kind: str, head: bytes) -> None:
    """Both twins of the complete path say the same, and the model, with httptools' opinion, no less: who refuses what is known
    to differ in what is worded only."""
    for most in (10**6, 3):
        one, two = (getattr(twin, f"judge_{kind}")(head, most) for twin in (PYTHON_JUDGES, NATIVE_JUDGES))
        assert repr(one) == repr(two), (head, most, one, two)
        try:
            model = getattr(heads_model, f"parse_{kind}")(head, most)
        except GatewayError:
            assert isinstance(one, Refusal), (head, most, "the model refuses it")
        else:
            # (Of options in Connection the model takes any number.)
            assert repr(one) == repr(model) or one == Refusal.OPTIONS, (head, most, one, model)


def requests_alike(head: bytes) -> None:
    """What the fast path takes the complete one reads alike; what that takes is framed alike by httptools and h11."""
    judged_alike("request", head)
    fast = NATIVE.scan_request(head)
    try:
        ours = server.parse_request(head, 10**6)
    except GatewayError:
        assert fast is None, (head, "the fast path takes what the complete one refuses")
        return
    assert fast is None or repr(fast) == repr(ours), (head, fast, ours)
    body, payload, all_of_it = _body(ours)
    mine = httptools_frames(httptools.HttpRequestParser, head, body)
    if mine is not None:
        assert (mine.ended, mine.body) == (all_of_it, payload), (head, "httptools frames it differently")
    theirs = h11_verdict(head + END + body + (NEXT if all_of_it else b""))
    if not theirs.ok:
        return
    assert theirs.complete == all_of_it, (head, theirs)
    assert (theirs.body, theirs.rest) == (payload, NEXT if all_of_it else b""), (head, theirs)
    assert theirs.method == ours.method, (head, theirs)
    if b"://" not in head.partition(b"\r\n")[0]:
        assert theirs.target == ours.target, (head, theirs)
    assert theirs.keep_alive or not ours.keep_alive or not ours.minor, (head, "h11 would close")


def responses_alike(head: bytes) -> None:
    """The same of what an engine says."""
    judged_alike("response", head)
    fast = NATIVE.scan_response(head)
    try:
        ours = client.parse_response(head, 10**6)
    except GatewayError:
        assert fast is None, (head, "the fast path takes what the complete one refuses")
        return
    assert fast is None or repr(fast) == repr(ours), (head, fast, ours)
    if ours.status < 200 or ours.status in (204, 304) or not (ours.chunked or ours.content_length >= 0):
        return
    body, payload, all_of_it = _body(ours)
    mine = httptools_frames(httptools.HttpResponseParser, head, body)
    if mine is not None:
        assert (mine.ended, mine.body) == (all_of_it, payload), (head, "httptools frames it differently")
    theirs = h11_verdict(head + END + body + (b"HTTP/1.1 200 OK\r\n" if all_of_it else b""), response=True)
    if theirs.ok:
        assert (theirs.complete, theirs.body, theirs.status) == (all_of_it, payload, ours.status), (head, theirs)
