"""The one-pass scanner of HTTP/1.1 heads, for the heads that nearly everybody sends.

It understands a strict subset and answers ``None`` for everything else; the caller then takes the complete path
(:mod:`fastgw.accel.judges`). It never raises, never refuses and never repairs. The invariant: whenever it returns a
head, the complete path returns an equal one.

It is quick because the same lines come again and again: ``head_lines`` classifies each one once (the Python twin alone
uses it). Reading a head is one loop with a branch for each kind of line, and no call: spread over functions it took 5 to 25 %
longer.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Generic, TypeVar

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
    NOTED,
    OWN,
    TRACE,
    UPGRADE,
    VISIBLE,
    bearer,
    keep_alive_hints,
    valid_trace,
    value_in,
    values_in,
    visible,
)
from fastgw.accel.head_lines import (
    BEARER_NAME,
    LENGTH_NAME,
    known_request_field,
    known_request_line,
    known_request_name,
    known_response_field,
    known_response_name,
    known_status_line,
    learn,
    learn_request_line,
    learn_response,
    learn_status_line,
)

# A struct of msgspec is built in C (66 ns for 16 fields; a slotted class with __init__ takes 170) and compares by field.


class RequestHead(msgspec.Struct, gc=False):
    """A request head that was found to be unambiguous. ``forward`` is what may go to an engine as it stands.

    ``get`` and ``get_all`` find what stands there. What goes no further has a place of its own, or none: the key is in
    ``credential`` (of Authorization or X-Api-Key); Host, Content-Length, Transfer-Encoding, Connection and Expect are in the
    slots that say what they mean; what the gateway reads itself is in ``own``, by lower-case name (``fields.OWN`` and ``NOTED``
    list them: X-Request-Id, Cookie, X-Forwarded-For and others); further credentials and hop-by-hop fields are dropped.
    """

    method: bytes
    target: bytes
    path: bytes
    query: bytes
    minor: int
    host: bytes
    forward: bytes
    content_length: int
    chunked: bool
    keep_alive: bool
    expect: int
    credential: bytes | None
    content_type: bytes | None
    own: dict[bytes, bytes] | None

    def get(self, name: bytes) -> bytes | None:
        """The value of the first field ``name`` in ``forward``, in any case; None = there is none. (Who decides by a field that
        may be repeated asks ``get_all``: which of them an engine takes is not known.) Each call searches anew."""
        return value_in(self.forward, name)

    def get_all(self, name: bytes) -> tuple[bytes, ...]:
        """The values of all fields ``name`` in ``forward``, in any case, in their order."""
        return values_in(self.forward, name)


class ResponseHead(msgspec.Struct, gc=False):
    """A response head that was found to be unambiguous.

    ``keep_alive`` is what version and ``Connection`` say. A message with neither length nor chunks ends with the
    connection, unless the request's method or the status forbids a body; only the caller knows the method.

    ``get`` and ``get_all`` find what stands in ``forward``. Not there: Content-Length, Transfer-Encoding, Connection and
    Keep-Alive (slots say what they mean), hop-by-hop fields, and those by which the gateway itself speaks (``fields.OURS``).
    """

    status: int
    minor: int
    status_line: bytes
    forward: bytes
    content_length: int
    chunked: bool
    keep_alive: bool
    sse: bool
    json: bool
    has_date: bool
    idle_s: float
    max_requests: int

    def get(self, name: bytes) -> bytes | None:
        """As :meth:`RequestHead.get`."""
        return value_in(self.forward, name)

    def get_all(self, name: bytes) -> tuple[bytes, ...]:
        """As :meth:`RequestHead.get_all`."""
        return values_in(self.forward, name)


LAST_HEAD_BYTES: Final = 2048
"""A connection remembers its last head up to this size. (It carries the key: never longer than the connection lives, but for
what is in a :class:`HeadMemory`.)"""

MAX_STRANGERS: Final = 8
"""After so many heads in a row that were new, a connection's peer varies them: remembering is given up."""

MOST_HEADS: Final = 256
"""So many heads of connections that are gone are remembered for others."""

MOST_SPARED: Final = 8
"""So many that were asked for are passed over, at most, where room is made for one more."""

UNLIMITED: Final = 2**31 - 1


def scan_request(data: bytes, end: int = -1, max_fields: int = UNLIMITED) -> RequestHead | None:
    """The request whose head, without the empty line that ends it, is ``data[:end]`` (all of ``data`` when that is negative).

    ``None`` = ask the complete path; also when it has more than ``max_fields`` fields.
    """
    lines = (data if end < 0 else data[:end]).split(b"\r\n", max_fields + 1)
    if len(lines) > max_fields + 1:
        return None
    line = lines[0]
    first = known_request_line(line) or learn_request_line(line)
    if first is None:
        return None
    method, target, path, query, minor = first
    del lines[0]
    find = known_request_field
    forward: list[bytes] = []
    keep = forward.append
    length = -1
    host = token = api_key = content_type = own = None
    typed = chunked = auth = key = traced = False
    connection = b""
    expect = 0
    for line in lines:
        action = find(line)
        if action is None:
            # The two lines that every request has and that must not be remembered are told by their names.
            name, colon, value = line.partition(b":")
            kind = known_request_name(name, 0)
            if kind == LENGTH_NAME:
                value = value.strip(b" \t")
                if length >= 0 or not value.isdigit() or len(value) > 18:
                    return None
                length = int(value)
                continue
            if kind == BEARER_NAME and not auth and value[:8] == b" Bearer " and not value[8:].translate(None, VISIBLE):
                auth = True
                token = value[8:] or None
                continue
            action = learn(line, name, colon, value)
            if action is None:
                return None
        if not action:
            keep(line)
            continue
        kind, name, value = action  # type: ignore[misc, assignment]
        if kind == CONTENT_TYPE:
            if typed:
                return None
            typed = True
            content_type = value or None
            keep(line)
        elif kind == LENGTH:
            if length >= 0 or not value.isdigit() or len(value) > 18:
                return None
            length = int(value)
        elif kind == HOST:
            if host is not None or value is None:
                return None
            host = value
        elif kind == CONNECTION:
            if connection or name not in (b"keep-alive", b"close"):
                return None
            connection = name
        elif kind == BEARER:
            if auth:
                return None
            auth = True
            token = bearer(value)
        elif kind == API_KEY:
            if key:
                return None
            key = True
            api_key = visible(value)
        elif kind == CODING:
            if chunked or not minor or value != b"chunked":
                return None
            chunked = True
        elif kind == EXPECT:
            if expect or value != b"100-continue":
                return None
            expect = 1
        elif kind in (OWN, NOTED):
            if own is None:
                own = {}
            elif name in own:
                return None
            own[name] = value
            if kind == NOTED:
                keep(line)
        elif kind == TRACE:
            if traced:
                return None
            traced = True
            if valid_trace(value):
                keep(line)
        elif kind in (UPGRADE, FRAMES):
            return None
    if chunked and length >= 0:
        return None
    if host is None:
        if minor:
            return None
        host = b""
    if forward:
        keep(b"")
    return RequestHead(
        method, target, path, query, minor, host, b"\r\n".join(forward), length, chunked,
        connection == b"keep-alive" if not minor else connection != b"close",
        expect if minor else 0, token if token is not None else api_key, content_type, own,
    )  # fmt: skip


def scan_response(data: bytes, end: int = -1, max_fields: int = UNLIMITED) -> ResponseHead | None:
    """The response whose head, without the empty line that ends it, is ``data[:end]``; otherwise as :func:`scan_request`."""
    lines = (data if end < 0 else data[:end]).split(b"\r\n", max_fields + 1)
    if len(lines) > max_fields + 1:
        return None
    line = lines[0]
    first = known_status_line(line) or learn_status_line(line)
    if first is None:
        return None
    status, minor, status_line = first
    del lines[0]
    find = known_response_field
    forward: list[bytes] = []
    keep = forward.append
    length = -1
    chunked = sse = json = has_date = typed = hinted = False
    connection = b""
    idle_s, most = -1.0, -1
    for line in lines:
        action = find(line)
        if action is None:
            name, colon, value = line.partition(b":")
            if known_response_name(name) == LENGTH_NAME:
                action = (LENGTH, name, value.strip(b" \t"))
            else:
                action = learn_response(line, name, colon, value)
                if action is None:
                    return None
        if not action:
            keep(line)
            continue
        kind, name, value = action  # type: ignore[misc, assignment]
        if kind == CONTENT_TYPE:
            if typed:
                return None
            typed = True
            sse, json = value == b"sse", value == b"json"
            keep(line)
        elif kind == LENGTH:
            if length >= 0 or not value.isdigit() or len(value) > 18:
                return None
            length = int(value)
        elif kind == DATE:
            if has_date:
                return None
            has_date = True
            keep(line)
        elif kind == CONNECTION:
            if connection or name not in (b"keep-alive", b"close"):
                return None
            connection = name
        elif kind == CODING:
            if chunked or not minor or value != b"chunked":
                return None
            chunked = True
        elif kind == KEEP_ALIVE:
            if hinted:
                return None
            hinted = True
            idle_s, most = keep_alive_hints(value)
        elif kind == FRAMES:
            return None
    if chunked and length >= 0:
        return None
    if forward:
        keep(b"")
    return ResponseHead(
        status, minor, status_line, b"\r\n".join(forward), length, chunked,
        connection == b"keep-alive" if not minor else connection != b"close", sse, json, has_date, idle_s, most,
    )  # fmt: skip


def _around_length(head: bytes) -> tuple[bytes, bytes] | None:
    """What stands before and after the digits of ``Content-Length`` in a whole head that was understood.

    Whoever meets both parts again around other digits (18 at most) has met the same head with another length.
    """
    at = head.lower().find(b"\r\ncontent-length:")
    if at < 0:
        return None
    at += len(b"\r\ncontent-length:")
    end = head.index(b"\r", at)
    digits = head[at:end].strip(b" \t")
    start = head.index(digits, at)
    return (head[:start], head[start + len(digits) :]) if start + len(digits) == end else None


H = TypeVar("H", RequestHead, ResponseHead)


class _Scanner(Generic[H]):
    """One connection's way in: reads the head that a read begins with, and knows the last one again.

    A peer that keeps its connection says the same again and again, but for the length of what it says. Then the head
    returned is the one returned last, with the new length: whoever needs it longer than its own message copies it.
    """

    __slots__ = ("_head", "_max_bytes", "_max_fields", "_prefix", "_strangers", "_suffix", "end")
    _scan: ClassVar[Any]

    def __init__(self, max_bytes: int, max_fields: int) -> None:
        self._max_bytes = max_bytes
        self._max_fields = max_fields
        self._head: H | None = None
        self._prefix = b""
        self._suffix = b""
        self._strangers = 0
        self.end = 0

    def read(self, data: bytes) -> H | None:
        """The head that ``data`` begins with, and ``end`` then says where the bytes after its empty line begin.

        ``None`` = the head is not whole, larger than ``max_bytes`` with its empty line, has more than ``max_fields``
        fields, or is not understood here.
        """
        again = self._head
        if again is not None and data.startswith(self._prefix):
            at = len(self._prefix)
            end = data.find(b"\r", at, at + 19)
            digits = data[at:end]
            if digits.isdigit() and data.startswith(self._suffix, end):
                again.content_length = int(digits)
                self.end = end + len(self._suffix)
                self._strangers = 0
                return again
        end = data.find(b"\r\n\r\n", 0, self._max_bytes)
        if end <= 0:
            return None
        found: H | None = self._scan(data, end, self._max_fields)
        if found is None:
            return None
        self.end = end + 4
        if found.content_length >= 0 and end <= LAST_HEAD_BYTES and self._strangers < MAX_STRANGERS:
            self._strangers += 1
            parts = _around_length(data[: end + 4])
            self._head = None if parts is None else found
            if parts is not None:
                self._prefix, self._suffix = parts
        return found

    def behind(self, data: bytes) -> bytes:
        """What of ``data`` comes behind the head that was just read in it."""
        return data[self.end :]


class Kept:
    """A head that a connection has brought which is gone, and what its service ``known`` of it."""

    __slots__ = ("head", "known", "parts", "used")

    def __init__(self, head: RequestHead, parts: tuple[bytes, bytes], known: Any) -> None:
        self.head = head
        self.parts = parts
        self.known = known
        self.used = True


class RequestScanner(_Scanner[RequestHead]):
    """Reads the request heads of one client connection."""

    __slots__ = ()
    _scan = staticmethod(scan_request)

    def adopt(self, kept: Kept) -> RequestHead:
        """Take a copy of what another connection brought for the head that was read last. Whether the same comes here shows
        when it is read."""
        self._head = head = RequestHead(*msgspec.structs.astuple(kept.head))
        self._prefix, self._suffix = kept.parts
        return head

    def remembered(self, known: Any) -> Kept | None:
        """The head that is remembered, for other connections, with what is ``known`` of it."""
        return None if self._head is None else Kept(self._head, (self._prefix, self._suffix), known)


class ResponseScanner(_Scanner[ResponseHead]):
    """Reads the response heads of one engine connection."""

    __slots__ = ()
    _scan = staticmethod(scan_response)


class HeadMemory:
    """Heads of connections that are gone, for those that come: a client that connects for each request says the same on each.

    Found by a hash of all bytes but the length's digits, which is keyed (siphash): how long it takes depends on nothing that a
    stranger can choose, and only who has sent the same bytes gets as far as a comparison. Bounded by :data:`MOST_HEADS`: the
    one goes first that has not been asked for. They carry keys: who has this calls :meth:`sweep` now and then.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[int, Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, data: bytes) -> Kept | None:
        """What is kept of a head like that which ``data`` begins with."""
        end = data.find(b"\r\n\r\n", 0, LAST_HEAD_BYTES + 4)
        parts = _around_length(data[: end + 4]) if end > 0 else None
        kept = self._kept.get(hash(parts)) if parts is not None else None
        if kept is not None:
            kept.used = True
        return kept

    def keep(self, kept: Kept) -> None:
        held = self._kept
        own = hash(kept.parts)
        if len(held) >= MOST_HEADS and own not in held:
            self._make_room()
        held[own] = kept

    def _make_room(self) -> None:
        held = self._kept
        for _ in range(MOST_SPARED):
            oldest = next(iter(held))
            kept = held.pop(oldest)
            if not kept.used:
                return
            kept.used = False
            held[oldest] = kept
        del held[next(iter(held))]

    def sweep(self) -> None:
        """Forget what nobody has asked for since the last time."""
        held = self._kept
        for own in [own for own, kept in held.items() if not kept.used]:
            del held[own]
        for kept in held.values():
            kept.used = False
