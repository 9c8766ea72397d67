"""The heads that we write, to engines and to clients. Nothing here looks at what it is given: callers pass clean bytes."""

from __future__ import annotations

from typing import Final

from fastgw.accel.fields import REASONS

_DAYS: Final = (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
_MONTHS: Final = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"


def reason(status: int) -> bytes:
    """The standard phrase for ``status``."""
    return REASONS.get(status, b"Unknown")


def request_head(
    method: bytes,
    target: bytes,
    host: bytes,
    forward: bytes,
    extra: bytes = b"",
    content_length: int = -1,
    chunked: bool = False,
) -> bytes:
    """The head of a request to an engine. ``forward`` and ``extra`` are whole lines, each with its CRLF.

    ``content_length`` -1 and not ``chunked`` says nothing about a body, which means that there is none.
    """
    if chunked:
        return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%bTransfer-Encoding: chunked\r\n\r\n" % (method, target, host, forward, extra)
    if content_length >= 0:
        return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%bContent-Length: %d\r\n\r\n" % (
            method, target, host, forward, extra, content_length,
        )  # fmt: skip
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b\r\n" % (method, target, host, forward, extra)


def response_head(
    status_line: bytes,
    forward: bytes,
    extra: bytes = b"",
    content_length: int = -1,
    chunked: bool = False,
    close: bool = False,
    date: bytes = b"",
    keep_alive: bool = False,
) -> bytes:
    """The head of a response to a client. ``status_line``, ``forward`` and ``extra`` bring their CRLFs.

    ``date`` is written when it is given. ``close`` announces the end of the connection; ``keep_alive`` promises an
    HTTP/1.0 client that it stays.
    """
    if chunked:
        framing = b"Transfer-Encoding: chunked\r\n"
    else:
        framing = b"Content-Length: %d\r\n" % content_length if content_length >= 0 else b""
    return b"".join(
        (
            status_line,
            forward,
            extra,
            b"Date: %b\r\n" % date if date else b"",
            framing,
            b"Connection: close\r\n\r\n" if close else b"Connection: keep-alive\r\n\r\n" if keep_alive else b"\r\n",
        )
    )


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
