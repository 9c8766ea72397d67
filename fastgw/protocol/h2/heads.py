"""Heads of HTTP/2 messages, judged: into the heads that the rest of the gateway knows (RFC 9113 §8.2, §8.3).

What HTTP/2 forbids is refused here; then the fields are written as HTTP/1 has them and go the way of every head, so that
whose a field is, and what is ambiguous, is decided in one place. An engine sends nearly the same head again and again: what a
block came to is remembered by its bytes, but for the length and the id that each answer has of its own; and so is each field,
unless it is a cookie or a key (which its own connection may).
"""

from __future__ import annotations

import re
from typing import Final

from fastgw.accel.fields import REASONS
from fastgw.accel.frames import bare, cut
from fastgw.accel.heads import ResponseHead, scan_response
from fastgw.errors import GatewayError, Source
from fastgw.protocol.h2.hpack import MOST_FIELDS, MOST_LIST_BYTES, SECRET, TooLong, fields
from fastgw.protocol.http1.client import parse_response

MOST_HEADS: Final = 256
"""Blocks whose heads are remembered."""
MOST_HEAD_BYTES: Final = 512
"""Of a block that is."""
MOST_KNOWN_FIELDS: Final = 4096
"""Single fields that are: a length that was told before is one of them."""
MOST_FIELD_BYTES: Final = 96
"""Of one that is, as it is written."""

MOST_SECRETS: Final = 4
"""Cookies and keys that one client's connection remembers of its own,"""
MOST_SECRET_BYTES: Final = 1024
"""each of so many bytes at most, as it is written."""

_NAME: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
_VALUE: Final = bytes(one for one in range(256) if one == 9 or (one > 31 and one != 127))
_STATUS: Final = re.compile(rb"[1-5][0-9]{2}").fullmatch
OF_CONNECTIONS: Final = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
"""Fields that a message of HTTP/2 must not have (§8.2.2)."""

_heads: dict[bytes, ResponseHead] = {}
_fields: dict[bytes, Field] = {}


class Malformed(ValueError):
    """A message that breaks the protocol: its stream ends, its connection goes on (§8.1.1)."""


def _is_name(key: bytes) -> bool:
    return key != b"" and not key.translate(None, _NAME)


def _is_value(value: bytes) -> bool:
    return not value.translate(None, _VALUE) and value.strip(b" \t") == value


class Field:
    """One field of a block: its ``line`` as HTTP/1 has it (none for a pseudo-field), what is ``wrong`` with it, and its
    ``size`` by the protocol's count."""

    __slots__ = ("key", "line", "size", "value", "wrong")

    def __init__(self, key: bytes, value: bytes) -> None:
        self.key = key
        self.value = value
        self.size = len(key) + len(value) + 32
        self.wrong = ""
        self.line = b""
        if key.startswith(b":"):
            if not _is_value(value):
                self.wrong = "a field's value is not in order"
            return
        if not _is_name(key):
            self.wrong = "a field's name is not in order"
        elif not _is_value(value):
            self.wrong = "a field's value is not in order"
        elif key in OF_CONNECTIONS:
            self.wrong = "a field that belongs to connections of HTTP/1"
        self.line = b"%b: %b\r\n" % (key, value)


def _learn(part: bytes, secrets: dict[bytes, Field] | None) -> Field:
    [(key, value)] = fields(part)
    one = Field(key, value)
    if key in SECRET:
        if secrets is not None and len(part) <= MOST_SECRET_BYTES:
            if len(secrets) >= MOST_SECRETS:
                secrets.clear()
            secrets[part] = one
    elif len(part) <= MOST_FIELD_BYTES:
        if len(_fields) >= MOST_KNOWN_FIELDS:
            _fields.clear()
        _fields[part] = one
    return one


def read(block: bytes) -> list[Field]:
    """The fields of a block.

    :raises HpackError: the connection cannot be read on.
    :raises TooLong: the peer was told how long a section may be.
    """
    parts = cut(block, MOST_FIELDS)
    if parts is None:
        return [Field(key, value) for key, value in fields(block)]
    return known(parts, None)


def known(parts: list[bytes], secrets: dict[bytes, Field] | None) -> list[Field]:
    """The fields that stand in ``parts``, each by itself (``accel.frames.cut``), where no table is. ``secrets``: what the
    connection remembers of those that no other may. Raises as :func:`read`."""
    out: list[Field] = []
    total = 0
    for part in parts:
        one = _fields.get(part)
        if one is None:
            if secrets is not None:
                one = secrets.get(part)
            if one is None:
                one = _learn(part, secrets)
        total += one.size
        out.append(one)
    if total > MOST_LIST_BYTES:
        raise TooLong("the field section is too long")
    return out


def checked_line(key: bytes, value: bytes) -> bytes:
    """One field, as a line."""
    if not _is_name(key):
        raise Malformed("a field's name is not in order")
    if not _is_value(value):
        raise Malformed("a field's value is not in order")
    if key in OF_CONNECTIONS:
        raise Malformed("a field that belongs to connections of HTTP/1")
    return b"%b: %b\r\n" % (key, value)


def _as_long(head: ResponseHead, length: int) -> ResponseHead:
    """The same head of a body of that ``length``."""
    if head.content_length == length:
        return head
    return ResponseHead(
        head.status, head.minor, head.status_line, head.forward, length, head.chunked, head.keep_alive, head.sse, head.json,
        head.has_date, head.idle_s, head.max_requests,
    )  # fmt: skip


def response_head(block: bytes) -> ResponseHead:
    """The head whose field block is ``block``. Who keeps it must not change it: others have it too. (``chunked``, as in HTTP/1,
    where it takes that to have some: there are trailers behind its body.)

    :raises HpackError: the connection cannot be read on.
    :raises TooLong: the peer was told how long a head may be.
    :raises Malformed: this answer is none.
    """
    known = _heads.get(block)
    if known is not None:
        return known
    key, length = bare(block)
    known = _heads.get(key)
    if known is not None:
        return known if length < 0 else _as_long(known, length)
    found = read(block)
    if not found or found[0].key != b":status" or _STATUS(found[0].value) is None:
        raise Malformed("an answer without a status")
    status = int(found[0].value)
    if status == 101:
        raise Malformed("101 in HTTP/2")
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, REASONS.get(status, b"Unknown"))]
    secret = trailer = False
    for one in found[1:]:
        if one.wrong or not one.line:
            raise Malformed(one.wrong or "a pseudo-field where there can be none")
        secret = secret or one.key in SECRET
        trailer = trailer or one.key == b"trailer"
        lines.append(one.line)
    head = b"".join(lines)[:-2]
    judged = scan_response(head, -1, MOST_FIELDS)
    if judged is None:
        try:
            judged = parse_response(head, MOST_FIELDS)
        except GatewayError as error:
            raise Malformed(error.detail) from None
    if trailer:
        judged.chunked = True
    if len(block) <= MOST_HEAD_BYTES and not secret:
        if len(_heads) >= MOST_HEADS:
            _heads.clear()
        # (No other length stands beside the one that was left out: that is refused above.)
        _heads[bytes(key if length < 0 or judged.content_length == length else block)] = judged
    return judged


def trailer_lines(block: bytes) -> bytes:
    """Trailers, as lines. Raises as :func:`response_head`."""
    lines = []
    for one in read(block):
        if one.wrong or not one.line:
            raise Malformed(one.wrong or "a pseudo-field in a trailer")
        lines.append(one.line)
    return b"".join(lines)


def bad_answer(why: str) -> GatewayError:
    """What is told of an answer that cannot be passed on; ``why`` is for the log."""
    return GatewayError("bad_gateway", source=Source.UPSTREAM, detail=why)
