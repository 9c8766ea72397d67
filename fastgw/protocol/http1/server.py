"""Request heads: what is refused, in words, and how they are collected from whatever pieces they come in.

Who judges a head is ``accel.judges``; here its verdict becomes an error. Invariant: the verdict never depends on how the bytes
were split, so each check is tied to the position in the stream at which it becomes decidable.
"""

from __future__ import annotations

import re
from typing import Any, Final

from fastgw.accel.heads import Kept, RequestHead, RequestScanner, scan_request
from fastgw.accel.judges import broken, head_end, judge_request
from fastgw.accel.refusals import Refusal
from fastgw.errors import GatewayError
from fastgw.protocol.http1.opinion import agrees

MAX_METHOD_BYTES: Final = 24
METHODS: Final = "GET, HEAD, OPTIONS, POST"
"""What is taken here of those who ask for a proxy, which this is not: of a 405, whose target names no endpoint."""
PREFACE_HEAD: Final = b"PRI * HTTP/2.0"
"""How a client of HTTP/2 begins, which is made to be refused by all others."""

_USUAL: Final = (b"POST ", b"GET ")
_METHOD_PREFIX: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,24}(?: |$)").match

_REASONS: Final[dict[Refusal, tuple[str, str | None]]] = {
    Refusal.MANY_FIELDS: ("head_too_large", "The request has too many header fields."),
    Refusal.LINE: ("bad_request", "The request line is malformed."),
    Refusal.METHOD: ("bad_request", "The method is malformed."),
    Refusal.VERSION: ("bad_request", "The HTTP version is malformed."),
    Refusal.OTHER_VERSION: ("version_not_supported", None),
    Refusal.CONNECT: ("method_not_allowed", "CONNECT is not offered."),
    Refusal.OTHER_METHOD: ("not_implemented", "This method is not known."),
    Refusal.TARGET: ("bad_request", "The request target is malformed."),
    Refusal.STAR: ("bad_request", "Only OPTIONS takes the target *."),
    Refusal.FIELD: ("bad_request", "A header field is malformed."),
    Refusal.HOST_AGAIN: ("bad_request", "The field host is repeated."),
    Refusal.LENGTH_AGAIN: ("bad_request", "The field content-length is repeated."),
    Refusal.TYPE_AGAIN: ("bad_request", "The field content-type is repeated."),
    Refusal.CODING_AGAIN: ("bad_request", "The field transfer-encoding is repeated."),
    Refusal.IMITATION: ("bad_request", "A header field imitates one that frames the message."),
    Refusal.LENGTH: ("bad_request", "The Content-Length is malformed."),
    Refusal.OLD_CODING: ("bad_request", "Transfer-Encoding does not exist in HTTP/1.0."),
    Refusal.OTHER_CODING: ("not_implemented", "This transfer coding is not offered."),
    Refusal.CODING: ("bad_request", "The Transfer-Encoding is malformed."),
    Refusal.BOTH: ("bad_request", "Content-Length and Transfer-Encoding together are ambiguous."),
    Refusal.NO_HOST: ("bad_request", "The request has no Host."),
    Refusal.HOST: ("bad_request", "The Host is malformed."),
    Refusal.UPGRADE: ("bad_request", "An upgrade cannot carry a body."),
    Refusal.OPTIONS: ("bad_request", "The Connection field holds too many options."),
}


# By its number: an Enum member's own hash is a function of Python.
_REFUSALS: Final = [_REASONS.get(why, ("internal", None)) for why in Refusal]


# (An error that is made in one place and raised in another: each compiled function that it passes through costs half a
# microsecond, and a refused head no more than three.)
def _refused(why: Refusal) -> GatewayError:
    kind, message = _REFUSALS[why - 1]
    return GatewayError(kind, message, allow=METHODS if kind == "method_not_allowed" else None)


def _judged(head: bytes, max_fields: int) -> RequestHead | GatewayError:
    """The verdict of the complete path; and of what it takes, httptools' too."""
    found = judge_request(head, max_fields)
    if not isinstance(found, RequestHead):
        return _refused(found)
    return found if agrees(head) else GatewayError("bad_request", "The request head is ambiguous.")


def parse_request(head: bytes, max_fields: int = 100) -> RequestHead:
    """The request whose head, without the final empty line, is ``head``.

    :raises GatewayError: ``bad_request``, ``not_implemented`` (a transfer coding or method that is not ours),
        ``version_not_supported``, ``method_not_allowed`` (CONNECT), ``head_too_large`` (more than ``max_fields``).
    """
    found = _judged(head, max_fields)
    if isinstance(found, GatewayError):
        try:
            raise found
        finally:
            del found  # its traceback has this frame: they would keep each other
    return found


class RequestReader:
    """Collects a request head from whatever pieces it comes in, and judges it. One per connection, used again and again.

    After a head was returned, ``rest`` holds the bytes that followed it, and the reader is ready for the next request.
    The head returned last is returned again, with another length, when the same bytes come again: whoever needs it longer
    than its own request copies it.
    After an error it is of no further use: nothing says where the next message would begin. ``preface``: what was refused is
    how a client of HTTP/2 begins (RFC 9113 §3.4), and ``rest`` goes on with it.
    """

    __slots__ = (
        "_buffer", "_checked", "_empty_lines", "_max_fields", "_max_head_bytes", "_scanner", "preface", "rest",
    )  # fmt: skip

    def __init__(self, max_head_bytes: int = 32768, max_fields: int = 100) -> None:
        self._scanner = RequestScanner(max_head_bytes, max_fields)
        self._max_head_bytes = max_head_bytes
        self._max_fields = max_fields
        self._buffer = bytearray()
        self._checked = 0
        self._empty_lines = 0
        self.preface = False
        self.rest = b""

    def adopt(self, kept: Kept) -> RequestHead:
        """Know a head again that another connection has brought. Returns what :meth:`feed` will, if it comes."""
        return self._scanner.adopt(kept)

    def remembered(self, known: Any) -> Kept | None:
        """The head that is known again, for other connections, with what is ``known`` of it."""
        return self._scanner.remembered(known)

    @property
    def partial(self) -> bool:
        """Whether some bytes of a head have arrived."""
        return bool(self._buffer)

    @property
    def held(self) -> int:
        """How many bytes are held."""
        return len(self._buffer)

    def feed(self, data: bytes) -> RequestHead | None:
        """The head that ``data`` completes, or ``None``.

        :raises GatewayError: as :func:`parse_request`, and ``head_too_large``; as soon as it is certain.
        """
        if not self._buffer:
            scanner = self._scanner
            head = scanner.read(data)
            if head is not None:
                self.rest = scanner.behind(data)
                self._empty_lines = 0
                return head
        found = self._collect(data)
        if isinstance(found, GatewayError):
            try:
                raise found
            finally:
                del found  # its traceback has this frame, and what was read: they would keep each other
        return found

    def _collect(self, data: bytes) -> RequestHead | GatewayError | None:
        buffer = self._buffer
        self.rest = b""
        pos = self._skip_empty_lines(data)
        if pos == len(data):
            return None
        head = b""
        end = -1
        if not buffer:
            end = head_end(data, pos, pos + self._max_head_bytes)
        if end >= 0:
            # Whole at once: nothing need be collected.
            early = self._wrong_early(data, pos, end + 4)
            head = data[pos:end]
            self.rest = data[end + 4 :]
        else:
            room = self._max_head_bytes - len(buffer)
            buffer += data[pos : pos + room]
            end = head_end(buffer, max(0, self._checked - 3), len(buffer))
            early = self._wrong_early(buffer, 0, end + 4 if end >= 0 else len(buffer))
            if end >= 0:
                head = bytes(buffer[:end])
                self.rest = bytes(buffer[end + 4 :]) + data[pos + room :]
                pos = 1
                buffer.clear()
        if early:
            return GatewayError("bad_request", early)
        if end < 0:
            if len(buffer) >= self._max_head_bytes:
                return GatewayError("head_too_large")
            return None
        self._checked = 0
        self.preface = head == PREFACE_HEAD and not self._empty_lines
        self._empty_lines = 0
        # (What came whole, and not behind an empty line, the scanner has seen.)
        scanned = scan_request(head, -1, self._max_fields) if pos else None
        return scanned if scanned is not None else _judged(head, self._max_fields)

    def _skip_empty_lines(self, data: bytes) -> int:
        """Where the head begins: a robust server skips an empty line before it (RFC 9112 §2.2); two are enough."""
        buffer = self._buffer
        if not buffer and data and data[0] != 13:
            return 0
        pos = 0
        while self._empty_lines < 2 and len(buffer) < 2:
            start = bytes(buffer) + data[pos : pos + 2]
            if start[:2] == b"\r\n":
                pos += 2 - len(buffer)
                buffer.clear()
                self._empty_lines += 1
            elif start == b"\r":
                buffer += data[pos:]
                return len(data)
            else:
                break
        return pos

    def _wrong_early(self, data: bytes | bytearray, start: int, end: int) -> str:
        """Why what begins at ``start`` can never become a head, without waiting for its end; "" = it can."""
        if self._checked <= MAX_METHOD_BYTES and not data.startswith(_USUAL, start) and not _METHOD_PREFIX(data, start):
            return "This is not an HTTP request."
        # One byte back: whether a CR or LF is bare shows only beside its neighbour.
        if broken(data, max(start, self._checked - 1), end):
            return "The request head holds a bare CR or LF, or a control character."
        self._checked = end
        return ""
