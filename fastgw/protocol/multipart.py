"""Finds the ``model`` field of a multipart/form-data body while the body streams by (RFC 7578, RFC 2046 §5.1).

Keeps part headers, the two small fields it looks for, and as much as can still be half a boundary; file parts are
skipped, not kept. The body itself is never changed.
"""

from __future__ import annotations

import re
from typing import Final

from fastgw.errors import GatewayError
from fastgw.protocol.openai import check_model

MAX_PARTS: Final = 1000
MAX_PART_HEADER_BYTES: Final = 8192
MAX_FIELD_BYTES: Final = 4096
MAX_PREAMBLE_BYTES: Final = 8192

_TYPE: Final = re.compile(rb"(?i)multipart/form-data[ \t]*(;.*)?", re.DOTALL).fullmatch
_PARAMETER: Final = re.compile(rb';[ \t]*([!#$%&\'*+\-.^_`|~0-9A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^ \t;"]*))[ \t]*')
_BOUNDARY: Final = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]").fullmatch
_NAME: Final = re.compile(rb'(?i)(?:^|;)[ \t]*name[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^ \t;"]+))').search
_FILENAME: Final = re.compile(rb"(?i);[ \t]*filename\*?[ \t]*=").search

_BODY, _AFTER, _HEADERS, _END = range(4)


def _invalid(message: str | None = None) -> GatewayError:
    return GatewayError("invalid_multipart", message)


def boundary_of(content_type: bytes) -> bytes:
    """The boundary that a ``Content-Type`` names.

    :raises GatewayError: ``unsupported_media_type`` when it is not multipart/form-data, ``invalid_multipart`` when it
        names no boundary, two, or one that is not 1 to 70 legal characters.
    """
    match = _TYPE(content_type)
    if match is None:
        raise GatewayError("unsupported_media_type")
    found: list[bytes] = []
    rest = match[1] or b""
    at = 0
    while at < len(rest):
        parameter = _PARAMETER.match(rest, at)
        if parameter is None:
            break
        if parameter[1].lower() == b"boundary":
            quoted = parameter[2]
            found.append(re.sub(rb"\\(.)", rb"\1", quoted, flags=re.DOTALL) if quoted is not None else parameter[3])
        at = parameter.end()
    if len(found) != 1 or not _BOUNDARY(found[0]):
        raise _invalid("The multipart boundary is missing or malformed.")
    return found[0]


class ModelField:
    """Feed it a multipart body; ``model`` and ``stream`` appear as soon as their parts are complete.

    ``done`` after the closing boundary: what follows is ignored, as RFC 2046 asks. A second ``model`` field would leave
    it to each engine which one counts, so it is refused.
    """

    __slots__ = (
        "_buffer", "_delimiter", "_field", "_first", "_parts", "_preamble", "_state", "_value", "done", "model", "stream",
    )  # fmt: skip

    def __init__(self, content_type: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary_of(content_type)
        # The first boundary may open the body: it is then preceded by no line end but the one put here.
        self._buffer = bytearray(b"\r\n")
        self._state = _BODY
        self._first = True
        self._parts = 0
        self._preamble = 0
        self._field: str | None = None
        self._value = bytearray()
        self.model: str | None = None
        self.stream = False
        self.done = False

    @property
    def held(self) -> int:
        """How many bytes are held."""
        return len(self._buffer) + len(self._value)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body.

        :raises GatewayError: ``invalid_multipart``, or ``invalid_parameter`` for a ``model`` that is no usable name.
        """
        # Large reads go through in pieces: what is held is then never more than a piece and a part header.
        for at in range(0, len(data), 32768):
            if self.done:
                return
            self._buffer += data[at : at + 32768] if len(data) > 32768 else data
            while self._step():
                pass

    def _step(self) -> bool:
        """One step forward; False when it takes more bytes."""
        buffer = self._buffer
        if self._state == _BODY:
            at = buffer.find(self._delimiter)
            if at < 0:
                # Everything but what may be the beginning of a boundary is body.
                safe = len(buffer) - len(self._delimiter) + 1
                if safe > 0:
                    self._take(buffer, safe)
                    del buffer[:safe]
                return False
            self._take(buffer, at)
            del buffer[: at + len(self._delimiter)]
            self._finish_part()
            self._state = _AFTER
            return True
        if self._state == _AFTER:
            if len(buffer) < 2:
                return False
            if buffer[:2] == b"--":
                if self._first:
                    raise _invalid("The multipart body has no parts.")
                self._state = _END
                self.done = True
                buffer.clear()
                return False
            # Padding after a boundary is allowed (RFC 2046 §5.1.1), and nothing else.
            end = buffer.find(b"\r\n", 0, 256)
            if end < 0 and len(buffer) < 256 and not buffer.rstrip(b"\r").strip(b" \t"):
                return False
            if end < 0 or buffer[:end].strip(b" \t"):
                raise _invalid("A multipart boundary is followed by something else.")
            # The line end stays: an empty header block is then found like any other.
            del buffer[:end]
            self._first = False
            self._parts += 1
            if self._parts > MAX_PARTS:
                raise _invalid(f"The multipart body has more than {MAX_PARTS} parts.")
            self._state = _HEADERS
            return True
        if self._state == _HEADERS:
            end = buffer.find(b"\r\n\r\n")
            if end > MAX_PART_HEADER_BYTES or (end < 0 and len(buffer) > MAX_PART_HEADER_BYTES + 4):
                raise _invalid("A part header is too large.")
            if end < 0:
                return False
            self._headers(bytes(buffer[2:end]) if end else b"")
            # A part may be empty, and its boundary directly follows: the blank line's end begins the delimiter.
            del buffer[: end + 2]
            self._state = _BODY
            return self._strip_blank()
        return False

    def _strip_blank(self) -> bool:
        # The body begins after the blank line, but an empty body's delimiter shares that line's CRLF with nobody:
        # "\r\n\r\n" + body + "\r\n--boundary". Only the second CRLF is left here, and it is not part of the body.
        del self._buffer[:2]
        return True

    def _headers(self, block: bytes) -> None:
        self._field = None
        self._value.clear()
        disposition: bytes | None = None
        for line in block.split(b"\r\n"):
            name, colon, value = line.partition(b":")
            if not colon and line:
                raise _invalid("A part header is malformed.")
            if name.strip(b" \t").lower() == b"content-disposition":
                if disposition is not None:
                    raise _invalid("A part header is repeated.")
                disposition = value.strip(b" \t")
        if disposition is None or _FILENAME(disposition):
            return
        match = _NAME(disposition.partition(b";")[2])
        if match is None:
            return
        field = match[1] if match[1] is not None else match[2]
        if field in (b"model", b"stream"):
            self._field = field.decode()

    def _take(self, buffer: bytearray, size: int) -> None:
        if self._parts == 0:
            self._preamble += size
            if self._preamble > MAX_PREAMBLE_BYTES:
                raise _invalid("The multipart body does not begin with its boundary.")
            return
        if self._field is not None:
            if len(self._value) + size > MAX_FIELD_BYTES:
                raise _invalid(f"The field {self._field} is too large.")
            self._value += buffer[:size]

    def _finish_part(self) -> None:
        if self._field == "model":
            if self.model is not None:
                raise _invalid("The field model is repeated.")
            try:
                text = self._value.decode()
            except UnicodeDecodeError:
                text = ""
            self.model = check_model(text)
        elif self._field == "stream":
            self.stream = bytes(self._value).strip().lower() in (b"true", b"1")
        self._field = None
        self._value.clear()
