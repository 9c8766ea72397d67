"""The bytes of a response's head: status line, Date and Server. Nothing else knows how they are written."""

from __future__ import annotations

import http
import time
from email.utils import formatdate
from typing import Final

from fastgw.sim.engine import Fields
from fastgw.sim.heads import MalformedError
from fastgw.sim.shapes import BadRequestError

PAD_LINE_BYTES: Final = 4096
_PHRASES: Final = {status.value: status.phrase.encode() for status in http.HTTPStatus}


class Clock:
    """The Date and Server fields, made once per second."""

    __slots__ = ("_date", "_lines", "_second")

    def __init__(self) -> None:
        self._second = 0
        self._date = b""
        self._lines = b""

    def lines(self) -> bytes:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._date = formatdate(now, usegmt=True).encode()
            self._lines = b"date: " + self._date + b"\r\nserver: fastgw-sim\r\n"
        return self._lines

    def fields(self) -> Fields:
        """The same, as HTTP/2 has them."""
        self.lines()
        return ((b"date", self._date), (b"server", b"fastgw-sim"))


def status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %s\r\n" % (status, _PHRASES.get(status, b"Unknown"))


def refusal(error: MalformedError, clock: Clock) -> bytes:
    """The whole answer to a malformed request; the connection closes after it."""
    body = BadRequestError(error.reason, error.status).answer().body
    fields = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    return status_line(error.status) + clock.lines() + fields + body


def padded(head: bytes, size: int) -> bytes:
    """``head`` with enough padding fields before its empty line to make ``size`` bytes, or a little more."""
    lines = []
    missing = size - len(head)
    while missing > 0:
        value = b"p" * max(1, min(missing, PAD_LINE_BYTES) - len(b"x-sim-padding: \r\n"))
        lines.append(b"x-sim-padding: " + value + b"\r\n")
        missing -= len(lines[-1])
    return head[:-2] + b"".join(lines) + b"\r\n"
