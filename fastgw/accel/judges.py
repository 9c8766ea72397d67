"""The complete path of HTTP/1.1 heads: any head gets a verdict here, and a refused one the first thing that is wrong with it.

Owns: what is refused (RFC 9112, and what two servers could read differently), and what becomes of the fields that are legal and
merely unusual. It raises nothing and words nothing: that is the business of ``protocol.http1``. Invariant: what is accepted has
one meaning to every server behind us; ``protocol.http1`` asks httptools too, and the tests hold it against both. It costs
a small multiple of the scanner in ``heads`` that nearly every head takes, for whatever comes: no head is dearer than its size.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from fastgw.accel.fields import (
    API_KEY,
    BEARER,
    CODING,
    CONNECTION,
    CONTENT_TYPE,
    DATE,
    EXPECT,
    FRAMES,
    HOST,
    KEEP_ALIVE,
    LENGTH,
    MAX_LENGTH,
    MAX_OPTIONS,
    METHODS,
    NOTED,
    OWN,
    TOKEN,
    TRACE,
    UPGRADE,
    bearer,
    keep_alive_hints,
    response_status,
    valid_host,
    valid_trace,
    visible,
)
from fastgw.accel.head_lines import known_request_field, known_response_field, learn, learn_response
from fastgw.accel.heads import RequestHead, ResponseHead
from fastgw.accel.refusals import Refusal

_TARGET: Final = re.compile(rb"[!\"$-\[\]-~]+").fullmatch
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?]*)([/?].*)?").fullmatch
_VERSION: Final = re.compile(rb"HTTP/([0-9])\.([0-9])").fullmatch
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?").fullmatch
_CODINGS: Final = frozenset((b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress", b"br", b"zstd"))
_RECORDED: Final = frozenset((OWN, NOTED, UPGRADE))
_STAYS: Final = frozenset((b"keep-alive", b"close"))
# All that a head may hold, and not only between its lines: a tab, line ends, and what is no control character.
_CLEAN: Final = bytes(c for c in range(256) if c in b"\t\r\n" or (c >= 32 and c != 127))


def broken(data: bytes | bytearray, start: int, end: int) -> bool:
    """Whether what no head can hold stands in ``data[start:end]``: a bare CR, a bare LF, a control character.

    A CR as the last byte may still get its LF; and an LF as the first one had its CR, unless it is the first byte of all.
    """
    piece = bytes(data[start:end])
    if piece.translate(None, _CLEAN):
        return True
    pairs = piece.count(b"\r\n")
    behind = start > 0 and piece.startswith(b"\n")
    return piece.count(b"\n") - behind != pairs or piece.count(b"\r") - piece.endswith(b"\r") != pairs


def head_end(data: bytes | bytearray, start: int, end: int) -> int:
    """Where the first empty line that ends a head begins in ``data[start:end]``; -1 = nowhere."""
    return data.find(b"\r\n\r\n", start, end)


def _start(line: bytes) -> tuple[bytes, bytes, int, bytes | None] | Refusal:
    """Method, target in origin form, minor version, and the host of an absolute target."""
    parts = line.split(b" ", 3)
    if len(parts) != 3:
        return Refusal.LINE
    method, target, version = parts
    if not method or method.translate(None, TOKEN):
        return Refusal.METHOD
    match = _VERSION(version)
    if match is None:
        return Refusal.VERSION
    if match[1] != b"1" or match[2] not in (b"0", b"1"):
        return Refusal.OTHER_VERSION
    minor = int(match[2])
    if method == b"CONNECT":
        return Refusal.CONNECT
    if method not in METHODS:
        return Refusal.OTHER_METHOD
    if not _TARGET(target):
        return Refusal.TARGET
    if target[0] == 0x2F:
        return method, target, minor, None
    if target == b"*":
        return (method, target, minor, None) if method == b"OPTIONS" else Refusal.STAR
    absolute = _ABSOLUTE(target)
    if absolute is None or not valid_host(absolute[1]):
        return Refusal.TARGET
    rest = absolute[2] or b""
    if not rest and method == b"OPTIONS":
        rest = b"*"
    elif rest[:1] != b"/":
        rest = b"/" + rest
    return method, rest, minor, absolute[1]


class _Said(msgspec.Struct, gc=False):
    """What a request's fields say, each as often as it came. ``fault``: the first thing that is wrong with them."""

    fault: Refusal | None
    forward: list[bytes]
    length: bytes | None
    coding: bytes | None
    content_type: bytes | None
    host: bytes | None
    hosted: bool
    key: bytes | None
    continues: int
    traces: int
    options: list[bytes]
    own: dict[bytes, list[bytes]]


def _read(lines: list[bytes]) -> _Said | Refusal:
    """What a request's field lines say."""
    fault: Refusal | None = None
    forward: list[bytes] = []
    length: bytes | None = None
    coding: bytes | None = None
    content_type: bytes | None = None
    host: bytes | None = None
    hosted = typed = expected = False
    token: bytes | None = None
    api_key: bytes | None = None
    tokens = keys = expects = traces = 0
    options: list[bytes] = []
    own: dict[bytes, list[bytes]] = {}
    for line in lines:
        action = known_request_field(line)
        if action is None:
            action = learn(line, *line.partition(b":"))
            if action is None:
                return Refusal.FIELD
        if not action:
            forward.append(line)
            continue
        kind, name, value = action  # type: ignore[misc]
        if kind == HOST:
            fault = (fault or Refusal.HOST_AGAIN) if hosted else fault
            hosted, host = True, value
            continue
        assert value is not None
        if kind in _RECORDED:
            own.setdefault(name, []).append(value)
            if kind == NOTED:
                forward.append(line)
        elif kind == LENGTH:
            fault = fault if length is None else fault or Refusal.LENGTH_AGAIN
            length = value
        elif kind == CONTENT_TYPE:
            fault = (fault or Refusal.TYPE_AGAIN) if typed else fault
            typed, content_type = True, value or None
            forward.append(line)
        elif kind == CODING:
            fault = fault if coding is None else fault or Refusal.CODING_AGAIN
            coding = value
        elif kind == CONNECTION:
            options.append(value)
        elif kind == EXPECT:
            expects += 1
            expected = value == b"100-continue"
        elif kind == BEARER:
            tokens += 1
            token = bearer(value) if tokens == 1 else None
        elif kind == API_KEY:
            keys += 1
            api_key = visible(value) if keys == 1 else None
        elif kind == TRACE:
            traces += 1
            if traces == 1 and valid_trace(value):
                forward.append(line)
        elif kind == FRAMES:
            fault = fault or Refusal.IMITATION
    # (One that is repeated is two claims, so it is none.)
    key = token if token is not None else api_key
    continues = (1 if expects == 1 and expected else 2) if expects else 0
    return _Said(fault, forward, length, coding, content_type, host, hosted, key, continues, traces, options, own)


def judge_request(head: bytes, max_fields: int) -> RequestHead | Refusal:
    """The request whose head, without the final empty line, is ``head``; or why it is refused."""
    lines = head.split(b"\r\n", max_fields + 1)
    if len(lines) > max_fields + 1:
        return Refusal.MANY_FIELDS
    start = _start(lines[0])
    if isinstance(start, Refusal):
        return start
    method, target, minor, authority = start
    del lines[0]
    said = _read(lines)
    if isinstance(said, Refusal):
        return said
    nominated = _nominated(said.options)
    if nominated is None:
        return said.fault or Refusal.OPTIONS
    fault = said.fault or _framed(said.length, said.coding, minor)
    if fault:
        return fault
    host = said.host
    if not said.hosted:
        if minor:
            return Refusal.NO_HOST
        host = b""
    elif host is None:
        return Refusal.HOST
    # Two request ids are nobody's: an empty one is invalid, and ours takes its place.
    own = {name: b", ".join(several) if len(several) == 1 or name != b"x-request-id" else b""
           for name, several in said.own.items()}  # fmt: skip
    if nominated - _STAYS:
        own[b"connection"] = b", ".join(said.options)
    size = int(said.length) if said.length is not None else -1
    if own.get(b"upgrade", b"").lower() == b"websocket" and (size > 0 or said.coding is not None):
        return Refusal.UPGRADE
    unsent = nominated if said.traces < 2 else nominated | {b"traceparent"}
    path, _, query = target.partition(b"?")
    return RequestHead(
        method, target, path, query, minor, authority if authority is not None else host or b"",
        _block(said.forward, unsent), size, said.coding is not None,
        b"close" not in nominated and (minor == 1 or b"keep-alive" in nominated),
        said.continues if minor else 0, said.key, said.content_type, own or None,
    )  # fmt: skip


def _nominated(options: list[bytes]) -> set[bytes] | None:
    """The fields and options that ``Connection`` names, in lower case; ``None`` = too many."""
    if not options:
        return set()
    if sum([value.count(b",") for value in options]) + len(options) > MAX_OPTIONS:
        return None
    return {option.strip(b" \t").lower() for value in options for option in value.split(b",")} - {b""}


def _block(forward: list[bytes], unsent: set[bytes]) -> bytes:
    """The lines that go on, without those of the fields ``unsent``."""
    if unsent:
        forward = [line for line in forward if line[: line.index(b":")].lower() not in unsent]
    return b"\r\n".join([*forward, b""]) if forward else b""


def _framed(length: bytes | None, coding: bytes | None, minor: int) -> Refusal | None:
    """What is wrong with a message's length, or with its coding."""
    if length is not None and (not length.isdigit() or len(length) > 19 or int(length) > MAX_LENGTH):
        return Refusal.LENGTH
    if coding is None:
        return None
    if not minor:
        return Refusal.OLD_CODING
    if coding != b"chunked":
        return Refusal.OTHER_CODING if coding.rstrip(b" \t") in _CODINGS else Refusal.CODING
    return Refusal.BOTH if length is not None else None


def judge_response(head: bytes, max_fields: int) -> ResponseHead | Refusal:
    """The response whose head, without the final empty line, is ``head``; or why it is refused."""
    lines = head.split(b"\r\n", max_fields + 1)
    if len(lines) > max_fields + 1:
        return Refusal.MANY_FIELDS
    start = _STATUS_LINE(lines[0])
    if start is None:
        return Refusal.LINE
    minor, status, upgrade = int(start[1]), int(start[2]), b""
    fault: Refusal | None = None
    forward: list[bytes] = []
    length: bytes | None = None
    coding: bytes | None = None
    sse = json = typed = dated = False
    options: list[bytes] = []
    hints: list[bytes] = []
    del lines[0]
    for line in lines:
        action = known_response_field(line)
        if action is None:
            action = learn_response(line, *line.partition(b":"))
            if action is None:
                return Refusal.FIELD
        if not action:
            forward.append(line)
            continue
        kind, _, value = action  # type: ignore[misc]
        assert value is not None
        if kind == LENGTH:
            if length is not None:
                fault = fault or Refusal.LENGTH_AGAIN
            length = value
        elif kind == CODING:
            if coding is not None:
                fault = fault or Refusal.CODING_AGAIN
            coding = value
        elif kind == CONTENT_TYPE:
            if typed:
                fault = fault or Refusal.TYPE_AGAIN
            typed = True
            sse = value == b"sse"
            json = value == b"json"
            forward.append(line)
        elif kind == DATE:
            if not dated:
                forward.append(line)
            dated = True
        elif kind == CONNECTION:
            options.append(value)
        elif kind == KEEP_ALIVE:
            hints.append(value)
        elif kind == UPGRADE:
            upgrade += b"," + value.lower()
        elif kind == FRAMES:
            fault = fault or Refusal.IMITATION
    nominated = _nominated(options)
    if nominated is None:
        return fault or Refusal.OPTIONS
    fault = fault or _framed(length, coding, minor)
    if fault:
        return fault
    if status == 101 and not (upgrade == b",websocket" and b"upgrade" in nominated):
        return Refusal.UPGRADE
    idle_s, most = keep_alive_hints(b",".join(hints)) if hints else (-1.0, -1)
    return ResponseHead(
        status, minor, response_status(status, start[3] or b""), _block(forward, nominated),
        int(length) if length is not None else -1, coding is not None,
        b"close" not in nominated and (minor == 1 or b"keep-alive" in nominated), sse, json,
        dated and b"date" not in nominated, idle_s, most,
    )  # fmt: skip
