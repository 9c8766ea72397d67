"""Heads of HTTP/2 messages, judged: into the heads that the rest of the gateway knows (RFC 9113 §8.2, §8.3).

What HTTP/2 forbids is refused here; then the fields are written as HTTP/1 has them and go the way of every head, so that
whose a field is, and what is ambiguous, is decided in one place. An engine sends nearly the same head again and again: what a
block came to is remembered by its bytes, unless it has a cookie.
"""

from __future__ import annotations

import re
from typing import Final

from fastgw.accel.fields import REASONS
from fastgw.accel.heads import ResponseHead, scan_response
from fastgw.errors import GatewayError, Source
from fastgw.protocol.h2.hpack import MOST_FIELDS, fields
from fastgw.protocol.http1.client import parse_response

MOST_HEADS: Final = 256
"""Blocks whose heads are remembered."""
MOST_HEAD_BYTES: Final = 512
"""Of a block that is."""

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_WRONG: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]|\A[ \t]|[ \t]\Z").search
_STATUS: Final = re.compile(rb"[1-5][0-9]{2}").fullmatch
OF_CONNECTIONS: Final = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
"""Fields that a message of HTTP/2 must not have (§8.2.2)."""

_heads: dict[bytes, ResponseHead] = {}


class Malformed(ValueError):
    """A message that breaks the protocol: its stream ends, its connection goes on (§8.1.1)."""


def _checked(key: bytes, value: bytes) -> bytes:
    """One field, as a line."""
    if _NAME(key) is None:
        raise Malformed("a field's name is not in order")
    if value and _WRONG(value) is not None:
        raise Malformed("a field's value is not in order")
    if key in OF_CONNECTIONS:
        raise Malformed("a field that belongs to connections of HTTP/1")
    return b"%b: %b\r\n" % (key, value)


def response_head(block: bytes) -> ResponseHead:
    """The head whose field block is ``block``. Who keeps it must not change it: others have it too.

    :raises HpackError: the connection cannot be read on.
    :raises TooLong: the peer was told how long a head may be.
    :raises Malformed: this answer is none.
    """
    known = _heads.get(block)
    if known is not None:
        return known
    found = fields(block)
    if not found or found[0][0] != b":status" or _STATUS(found[0][1]) is None:
        raise Malformed("an answer without a status")
    status = int(found[0][1])
    if status == 101:
        raise Malformed("101 in HTTP/2")
    lines = b"".join([_checked(key, value) for key, value in found[1:]])
    head = b"HTTP/1.1 %d %b\r\n%b" % (status, REASONS.get(status, b"Unknown"), lines)
    head = head[:-2]
    judged = scan_response(head, -1, MOST_FIELDS)
    if judged is None:
        try:
            judged = parse_response(head, MOST_FIELDS)
        except GatewayError as error:
            raise Malformed(error.detail) from None
    if len(block) <= MOST_HEAD_BYTES and b"set-cookie" not in lines:
        if len(_heads) >= MOST_HEADS:
            _heads.clear()
        _heads[bytes(block)] = judged
    return judged


def check_trailers(block: bytes) -> None:
    """Whether these can be trailers; what they say goes no further. Raises as :func:`response_head`."""
    for key, value in fields(block):
        _checked(key, value)


def bad_answer(why: str) -> GatewayError:
    """What is told of an answer that cannot be passed on; ``why`` is for the log."""
    return GatewayError("bad_gateway", source=Source.UPSTREAM, detail=why)
