"""The strict reading of one request head: h11 parses it, and what h11 forgives is refused here.

Owns: the verdict on a head, and a memo of heads already judged (load generators send the same bytes over and over).
Must never: repair anything. An engine that refuses what a gateway should not have sent is half of the simulator's use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import h11

HEAD_LIMIT_BYTES: Final = 128 * 1024
_MEMO_HEADS: Final = 1024
_MEMO_HEAD_BYTES: Final = 4096
# Line ends other than CRLF, and continuation lines (RFC 9112 sections 2.2 and 5.2): h11 takes both.
_LOOSE: Final = re.compile(rb"(?<!\r)\n|\r(?!\n)|\n[ \t]")


class MalformedError(Exception):
    """A request that no engine should ever be sent; ``status`` is what it is answered with."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """One judged request head. ``headers`` keeps order, case and values; ``fields`` has lower-case names, last value wins."""

    raw: bytes
    method: str
    target: str
    path: str
    version: str
    headers: tuple[tuple[bytes, bytes], ...]
    fields: dict[bytes, bytes]
    length: int
    chunked: bool
    keep_alive: bool
    expects_continue: bool
    websocket: bool

    @property
    def streams_body(self) -> bool:
        """True for uploads, whose bodies are counted and hashed but not kept whole."""
        return not self.fields.get(b"content-type", b"application/json").lower().startswith(b"application/json")


def new_reader() -> h11.Connection:
    return h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT_BYTES)


def read_head(raw: bytes, reader: h11.Connection | None = None) -> Head:
    """Judge ``raw``, which ends with the first empty line. MalformedError says what is wrong with it.

    ``reader`` (a fresh :func:`new_reader`) is left positioned at the body, for a chunked one.
    """
    if _LOOSE.search(raw):
        raise MalformedError("bare CR or LF, or a continuation line")
    reader = reader or new_reader()
    try:
        reader.receive_data(raw)
        event = reader.next_event()
    except h11.RemoteProtocolError as error:
        raise MalformedError(str(error), error.error_status_hint) from error
    if not isinstance(event, h11.Request):
        raise MalformedError(f"not a request: {event!r}")
    # From the bytes, not from h11's event: it merges equal Content-Lengths, and a test wants to see what was sent.
    pairs = (line.partition(b":") for line in raw[:-4].split(b"\r\n")[1:])
    headers = tuple((name, value.strip(b" \t")) for name, _, value in pairs)
    names = [name.lower() for name, _ in headers]
    fields = {name: value for name, (_, value) in zip(names, headers, strict=True)}
    chunked = b"transfer-encoding" in fields
    length = fields.get(b"content-length", b"0")
    if chunked and b"content-length" in fields:
        raise MalformedError("Content-Length and Transfer-Encoding together")
    for single in (b"content-length", b"transfer-encoding", b"host"):
        if names.count(single) > 1:
            raise MalformedError(f"two {single.decode()} fields")
    version = event.http_version.decode()
    if version not in ("1.1", "1.0"):
        raise MalformedError(f"HTTP/{version}", 505)
    if chunked and version == "1.0":
        raise MalformedError("Transfer-Encoding on HTTP/1.0")
    if not length.isdigit():
        raise MalformedError("Content-Length is not a number")
    target = event.target.decode("latin-1")
    options = {item.strip() for item in fields.get(b"connection", b"").lower().split(b",")}
    keep_alive = b"close" not in options if version == "1.1" else b"keep-alive" in options
    return Head(
        raw=raw,
        method=event.method.decode(),
        target=target,
        path=target.partition("?")[0],
        version=version,
        headers=headers,
        fields=fields,
        length=0 if chunked else int(length),
        chunked=chunked,
        keep_alive=keep_alive,
        expects_continue=version == "1.1" and fields.get(b"expect", b"").lower() == b"100-continue",
        websocket=b"upgrade" in options and fields.get(b"upgrade", b"").lower() == b"websocket",
    )


class HeadMemo:
    """Heads already judged, by their exact bytes; bounded in number and size."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def get(self, raw: bytes) -> Head | None:
        return self._known.get(raw)

    def keep(self, head: Head) -> Head:
        """Remember ``head`` where that helps; returns it."""
        if len(head.raw) <= _MEMO_HEAD_BYTES and not head.chunked:
            if len(self._known) >= _MEMO_HEADS:
                self._known.clear()
            self._known[head.raw] = head
        return head
