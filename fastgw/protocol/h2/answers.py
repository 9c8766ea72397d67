"""Answers as HTTP/2 has them: field blocks, out of the lines in which the rest of the gateway knows them.

An engine sends nearly the same head again and again: its fields are written once and remembered by their bytes. What is new
each time (the id, the length, what is left of a limit) is put behind. No table is kept: see ``hpack``.
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.frames import field_block, text
from fastgw.accel.heads import ResponseHead
from fastgw.protocol.h2.heads import OF_CONNECTIONS
from fastgw.protocol.h2.hpack import field, name
from fastgw.protocol.headers import passes_behind
from fastgw.protocol.websocket import without_accept

MOST_ANSWERS: Final = 256
"""Engines' fields that are remembered,"""
MOST_ANSWER_BYTES: Final = 2048
"""each of so many bytes at most; and names of fields."""

_ID: Final = name(b"x-request-id")
_LENGTH: Final = name(b"content-length")
_UNBUFFERED: Final = field(b"x-accel-buffering", b"no")
_DATE: Final = name(b"date")
_statuses: dict[int, bytes] = {}
_blocks: dict[bytes, bytes] = {}
_names: dict[bytes, bytes] = {}

CONTINUE: Final = field(b":status", b"100")


def _status(status: int) -> bytes:
    block = _statuses.get(status)
    if block is None:
        block = _statuses[status] = field(b":status", b"%d" % status)  # (three digits: not many)
    return block


def _written(lines: bytes) -> bytes:
    """Whole lines, without those that belong to connections of HTTP/1."""
    out = []
    for line in lines.split(b"\r\n"):
        key, _, value = line.partition(b":")
        start = _names.get(key)
        if start is None:
            lower = key.lower()
            start = name(lower) if lower and lower not in OF_CONNECTIONS else b""
            if len(_names) >= MOST_ANSWERS:
                _names.clear()
            if len(key) <= MOST_ANSWER_BYTES:
                _names[key] = start
        if start:
            out.append(start)
            out.append(text(value.strip(b" \t")))
    return b"".join(out)


def _remembered(lines: bytes) -> bytes:
    block = _blocks.get(lines)
    if block is None:
        block = _written(lines)
        if len(lines) <= MOST_ANSWER_BYTES:
            if len(_blocks) >= MOST_ANSWERS:
                _blocks.clear()
            _blocks[lines] = block
    return block


def engine_block(head: ResponseHead, length: int, request_id: bytes, extra: bytes, date: bytes) -> bytes:
    """An engine's head as the client gets it: its status and fields, the ``length`` of the body where it is not negative, our
    id, and ``extra`` whole lines. ``date`` is for where the engine sent none."""
    more = _UNBUFFERED if head.sse else b""
    if not head.has_date:
        more += _DATE + text(date)
    if extra:
        more += _written(extra)
    return field_block(_status(head.status), _remembered(head.forward), more, _ID, request_id, length)


def tunnel_block(head: ResponseHead, request_id: bytes) -> bytes:
    """What an extended CONNECT is answered with where the engine's ``head`` is a 101 (RFC 8441 §5)."""
    return b"".join((_status(200), _written(without_accept(head.forward)), _ID, text(request_id)))


def trailer_block(lines: bytes) -> bytes:
    """What of an engine's trailers may go down (RFC 9110 §6.5.1); b"" = nothing."""
    out = []
    for line in lines.split(b"\r\n"):
        key, _, value = line.partition(b":")
        key = key.lower()
        if key and key not in OF_CONNECTIONS and passes_behind(key):
            out.append(field(key, value.strip(b" \t")))
    return b"".join(out)


def local_block(status: int, content_type: bytes, length: int, lines: bytes, date: bytes) -> bytes:
    """The head of an answer of the gateway's own. 204 and 304 carry no length."""
    out = [_status(status), _DATE, text(date)]
    if status != 204 and status != 304:
        if content_type:
            out.append(field(b"content-type", content_type))
        out.append(_LENGTH)
        out.append(text(b"%d" % length))
    out.append(_written(lines))
    return b"".join(out)
