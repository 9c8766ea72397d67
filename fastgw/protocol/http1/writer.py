"""HTTP/1 as we write it, to engines and to clients, and nobody else does. Nothing here looks at what it is given: callers pass
clean bytes."""

from __future__ import annotations

from typing import Final

from fastgw.accel.fields import REASONS
from fastgw.accel.heads import ResponseHead
from fastgw.accel.lines import chunk, request_start
from fastgw.protocol.start import RequestStart

_DAYS: Final = (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
_MONTHS: Final = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
CHUNKED: Final = b"transfer-encoding: chunked\r\n"
CLOSE: Final = b"connection: close\r\n"
KEEP_ALIVE: Final = b"connection: keep-alive\r\n"
WEBSOCKETS: Final = b"sec-websocket-version: 13\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
"""What could be asked for instead of another version of them (RFC 6455 §4.4, RFC 9110 §15.5.22)."""
_UPGRADE: Final = b"\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"


def reason(status: int) -> bytes:
    """The standard phrase for ``status``."""
    return REASONS.get(status, b"Unknown")


def request_line(method: bytes, target: bytes) -> bytes:
    """The first line of a request to an engine."""
    return b"%b %b HTTP/1.1\r\n" % (method, target)


def request_head(start: RequestStart, own: bytes, trace: bytes, request_id: bytes, length: int) -> bytes:
    """The head of a request to an engine: its line (``start.line``), the engine's ``own`` lines, those of its ``trace``, the
    other fields, the id, and the ``length`` of the body, -1 = it comes in chunks.

    Only a POST says that its body has no bytes (RFC 9110 §8.6).
    """
    if length > 0:
        return request_start(start.line, own, trace, start.fields, request_id, length)
    if start.upgrade:
        end = _UPGRADE
    elif length < 0:
        end = b"\r\ntransfer-encoding: chunked\r\n\r\n"
    else:
        end = b"\r\ncontent-length: 0\r\n\r\n" if start.method == b"POST" else b"\r\n\r\n"
    return b"".join((start.line, own, trace, start.fields, request_id, end))


def response_head(
    head: ResponseHead, framing: bytes, request_id: bytes, extra: bytes, date: bytes, connection: bytes, body: bytes = b""
) -> bytes:
    """An engine's head as the client gets it, and the ``body`` that goes with it: the status and fields, the line that says
    where the body ends (``length_line``, ``CHUNKED``, or none), our id, ``extra`` whole lines, and what becomes of the
    ``connection`` (``CLOSE``, ``KEEP_ALIVE``, or none). ``date`` is for where the engine sent none."""
    return b"".join(
        (
            head.status_line,
            head.forward,
            framing,
            b"x-request-id: ",
            request_id,
            b"\r\nx-accel-buffering: no\r\n" if head.sse else b"\r\n",
            b"" if head.has_date else b"date: %b\r\n" % date,
            extra,
            connection,
            b"\r\n",
            body,
        )
    )


def length_line(length: int) -> bytes:
    """The body has ``length`` bytes."""
    return b"content-length: %d\r\n" % length


def upgrade_head(head: ResponseHead, request_id: bytes) -> bytes:
    """The head of an engine's 101."""
    return b"%b%bconnection: Upgrade\r\nupgrade: websocket\r\nx-request-id: %b\r\n\r\n" % (
        head.status_line, head.forward, request_id,
    )  # fmt: skip


def frame(payload: bytes, last: bool) -> bytes:
    """``payload`` in chunks; ``last``: and the end of them."""
    return chunk(payload) + LAST_CHUNK if last else chunk(payload)


def single_get(target: bytes, fields: bytes) -> bytes:
    """A whole request, after which nothing is asked on its connection; ``fields`` are lines, Host among them."""
    return b"GET %b HTTP/1.1\r\n%bConnection: close\r\n\r\n" % (target, fields)


def single_post(target: bytes, fields: bytes, body: bytes) -> bytes:
    """The same with ``body``, which is JSON."""
    head = b"POST %b HTTP/1.1\r\n%bContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % (target, fields, len(body)) + body


def simple_response(
    status: int,
    reason: bytes = b"",
    content_type: bytes = b"application/json",
    body: bytes = b"",
    extra: bytes = b"",
    close: bool = False,
    head_only: bool = False,
    date: bytes = b"",
) -> bytes:
    """A whole response with a body of known length; ``head_only`` leaves the body out and keeps its length (HEAD).

    1xx, 204 and 304 carry neither a length nor a body.
    """
    bare = status == 204 or status == 304 or status < 200
    return b"".join(
        (
            b"HTTP/1.1 %d %b\r\n" % (status, reason or REASONS.get(status, b"Unknown")),
            b"Date: %b\r\n" % date if date else b"",
            b"" if bare else b"Content-Type: %b\r\nContent-Length: %d\r\n" % (content_type, len(body))
            if content_type else b"Content-Length: %d\r\n" % len(body),
            extra,
            b"Connection: close\r\n\r\n" if close else b"\r\n",
            b"" if head_only or bare else body,
        )
    )  # fmt: skip


_date_of = -1
_date = b""


def http_date(epoch_s: float) -> bytes:
    """IMF-fixdate (RFC 9110 §5.6.7) of a Unix time; formatted once per second, whatever the locale."""
    global _date_of, _date
    second = int(epoch_s)
    if second != _date_of:
        _date = _imf_fixdate(second)
        _date_of = second
    return _date


def _imf_fixdate(second: int) -> bytes:
    days, rest = divmod(second, 86400)
    hour, rest = divmod(rest, 3600)
    minute, sec = divmod(rest, 60)
    # Civil date from a day count, in years that begin with March: leap days come last, so months need no table.
    shifted = days + 719468
    era, day_of_era = divmod(shifted, 146097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted_month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted_month + 2) // 5 + 1
    month = shifted_month + 3 if shifted_month < 10 else shifted_month - 9
    year = year_of_era + era * 400 + (month <= 2)
    return b"%b, %02d %b %04d %02d:%02d:%02d GMT" % (
        _DAYS[(days + 3) % 7], day, _MONTHS[month - 1], year, hour, minute, sec,
    )  # fmt: skip
