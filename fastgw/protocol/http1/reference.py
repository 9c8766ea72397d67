"""A second oracle for tests: what h11 makes of the same bytes. Never used to serve anything."""

from __future__ import annotations

from dataclasses import dataclass

import h11


@dataclass(frozen=True, slots=True)
class Verdict:
    """``ok`` = h11 read one whole message; the other fields describe it, ``rest`` is what it left unread."""

    ok: bool
    method: bytes = b""
    target: bytes = b""
    status: int = 0
    fields: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    rest: bytes = b""
    keep_alive: bool = False
    complete: bool = False
    error: str = ""


def h11_verdict(data: bytes, *, response: bool = False, method: bytes = b"GET", max_head_bytes: int = 65536) -> Verdict:
    """What h11 reads from ``data``: a request, or the response to a request of ``method``."""
    conn = h11.Connection(h11.CLIENT if response else h11.SERVER, max_incomplete_event_size=max_head_bytes)
    if response:
        conn.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        conn.send(h11.EndOfMessage())
    body = b""
    start: h11.Request | h11.Response | None = None
    complete = False
    try:
        conn.receive_data(data)
        while True:
            event = conn.next_event()
            if isinstance(event, h11.Request | h11.Response):
                start = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                complete = True
                break
            elif isinstance(event, h11.InformationalResponse):
                continue
            else:
                break
    except h11.ProtocolError as error:
        return Verdict(False, error=str(error))
    if start is None:
        return Verdict(False, error="incomplete head")
    fields = tuple((bytes(name), bytes(value)) for name, value in start.headers)
    rest = bytes(conn.trailing_data[0]) if complete else b""
    keep = conn.their_state is not h11.MUST_CLOSE
    if isinstance(start, h11.Request):
        return Verdict(True, bytes(start.method), bytes(start.target), 0, fields, body, rest, keep, complete)
    return Verdict(True, b"", b"", int(start.status_code), fields, body, rest, keep, complete)
