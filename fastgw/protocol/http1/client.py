"""Response heads: what is refused, in words for the log, and how they are collected from whatever pieces they come in.

An engine is not trusted to frame its messages: what is ambiguous becomes ``bad_gateway`` before one byte of it goes down. Who
judges a head is ``accel.judges``.
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.heads import ResponseHead, ResponseScanner, scan_response
from fastgw.accel.judges import broken, head_end, judge_response
from fastgw.accel.refusals import Refusal
from fastgw.errors import GatewayError, Source
from fastgw.protocol.http1.opinion import agrees_of_response

_PREFIX: Final = b"HTTP/1."

_REASONS: Final[dict[Refusal, str]] = {
    Refusal.MANY_FIELDS: "too many response fields",
    Refusal.LINE: "malformed status line",
    Refusal.FIELD: "malformed response field",
    Refusal.LENGTH_AGAIN: "repeated field content-length",
    Refusal.TYPE_AGAIN: "repeated field content-type",
    Refusal.CODING_AGAIN: "repeated field transfer-encoding",
    Refusal.IMITATION: "a response field imitates one that frames the message",
    Refusal.LENGTH: "malformed content-length",
    Refusal.OLD_CODING: "transfer-encoding in HTTP/1.0",
    Refusal.OTHER_CODING: "unknown transfer-encoding",
    Refusal.CODING: "unknown transfer-encoding",
    Refusal.BOTH: "content-length and transfer-encoding together",
    Refusal.UPGRADE: "an upgrade that nobody asked for",
    Refusal.OPTIONS: "too many options in the connection field",
}


# By its number: an Enum member's own hash is a function of Python.
_REFUSALS: Final = [_REASONS.get(why, "") for why in Refusal]


def _bad(detail: str) -> GatewayError:
    return GatewayError("bad_gateway", source=Source.UPSTREAM, detail=detail)


def _refused(why: Refusal) -> GatewayError:
    return _bad(_REFUSALS[why - 1])


def _judged(head: bytes, max_fields: int) -> ResponseHead | GatewayError:
    """The verdict of the complete path; and of what it takes, httptools' too."""
    found = judge_response(head, max_fields)
    if not isinstance(found, ResponseHead):
        return _refused(found)
    return found if agrees_of_response(head) else _bad("an ambiguous response head")


def parse_response(head: bytes, max_fields: int = 200) -> ResponseHead:
    """The response whose head, without the final empty line, is ``head``.

    :raises GatewayError: ``bad_gateway``, for everything that is malformed or can be read in two ways.
    """
    found = _judged(head, max_fields)
    if isinstance(found, GatewayError):
        try:
            raise found
        finally:
            del found  # its traceback has this frame: they would keep each other
    return found


class ResponseReader:
    """Collects response heads from whatever pieces they come in. One per engine connection, used again and again.

    After a head was returned, ``rest`` holds the bytes that followed it. Interim (1xx) heads come out like any other.
    """

    __slots__ = ("_buffer", "_checked", "_max_fields", "_max_head_bytes", "_scanner", "rest")

    def __init__(self, max_head_bytes: int = 65536, max_fields: int = 200) -> None:
        self._scanner = ResponseScanner(max_head_bytes, max_fields)
        self._max_head_bytes = max_head_bytes
        self._max_fields = max_fields
        self._buffer = bytearray()
        self._checked = 0
        self.rest = b""

    @property
    def partial(self) -> bool:
        """Whether some bytes of a head have arrived."""
        return bool(self._buffer)

    @property
    def held(self) -> int:
        """How many bytes are held."""
        return len(self._buffer)

    def feed(self, data: bytes) -> ResponseHead | None:
        """The head that ``data`` completes, or ``None``.

        :raises GatewayError: ``bad_gateway``, as soon as it is certain.
        """
        if not self._buffer:
            scanner = self._scanner
            head = scanner.read(data)
            if head is not None:
                self.rest = scanner.behind(data)
                return head
        found = self._collect(data)
        if isinstance(found, GatewayError):
            try:
                raise found
            finally:
                del found  # its traceback has this frame, and what was read: they would keep each other
        return found

    def _collect(self, data: bytes) -> ResponseHead | GatewayError | None:
        buffer = self._buffer
        self.rest = b""
        head = b""
        end = -1
        whole = False
        if not buffer:
            end = head_end(data, 0, self._max_head_bytes)
        if end >= 0:
            # Whole at once: nothing need be collected, and the scanner has seen it.
            whole = True
            early = self._wrong_early(data, end + 4)
            head = data[:end]
            self.rest = data[end + 4 :]
        else:
            room = self._max_head_bytes - len(buffer)
            buffer += data[:room]
            end = head_end(buffer, max(0, self._checked - 3), len(buffer))
            early = self._wrong_early(buffer, end + 4 if end >= 0 else len(buffer))
            if end >= 0:
                head = bytes(buffer[:end])
                self.rest = bytes(buffer[end + 4 :]) + data[room:]
                buffer.clear()
        if early:
            return _bad(early)
        if end < 0:
            if len(buffer) >= self._max_head_bytes:
                return _bad("the response head is too large")
            return None
        self._checked = 0
        scanned = None if whole else scan_response(head, -1, self._max_fields)
        return scanned if scanned is not None else _judged(head, self._max_fields)

    def _wrong_early(self, data: bytes | bytearray, end: int) -> str:
        """Why this can never become a head, without waiting for its end; "" = it can."""
        if not data.startswith(_PREFIX) and data != _PREFIX[: len(data)]:
            return "the engine does not speak HTTP/1"
        if broken(data, max(0, self._checked - 1), end):
            return "bare CR or LF or a control character in the response head"
        self._checked = end
        return ""
