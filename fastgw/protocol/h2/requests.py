"""A client's requests in HTTP/2: field blocks, judged, into the heads that the rest of the gateway knows (RFC 9113 §8.2, §8.3).

What HTTP/2 forbids is refused here; then the fields are written as HTTP/1 has them and go the way of every head, so that auth,
routing and limits see of a request what they would see of the same over HTTP/1. A client says the same again and again but for
the length of what it says: the last head is known again by its block's bytes, as long as they mean the same. Of a head that
is new each field is, where the client keeps to it that there is no table.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

from fastgw.accel.frames import cut
from fastgw.accel.heads import LAST_HEAD_BYTES, RequestHead, scan_request
from fastgw.accel.ids import valid_request_id
from fastgw.errors import GatewayError
from fastgw.protocol.h2.heads import Field, Malformed, checked_line, known
from fastgw.protocol.h2.hpack import MOST_FIELDS, Decoder, HpackError, TooLong, string_at, value_at
from fastgw.protocol.headers import forbidden_trailer
from fastgw.protocol.http1.server import METHODS, parse_request

_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority", b":protocol"))
_ID: Final = b"\x00\x0cx-request-id"  # the name, of a field that no table keeps, and not in Huffman's code
_LONG: Final = 127  # from here on a string's first byte says that it is long, or in that code
_SCHEMES: Final = frozenset((b"http", b"https"))


class RequestBlocks:
    """Reads the requests of one connection. ``last``: the head that is known again, and ``known``: what the service made of
    it; who says the same again gets the same object, with another length."""

    __slots__ = ("_at", "_before_id", "_behind_id", "_changes", "_decoder", "_ended", "_max_bytes", "_max_fields", "_prefix",
                 "_secrets", "_suffix", "known", "last")  # fmt: skip

    def __init__(self, max_bytes: int, max_fields: int) -> None:
        self._max_bytes = max_bytes
        self._max_fields = max_fields
        self._decoder = Decoder()
        self.last: RequestHead | None = None
        self._prefix = b""
        self._suffix = b""
        self._at = 0  # where the length's string begins, 0 = none is told
        self._before_id = b""  # what of the prefix stands before its x-request-id's value, b"" = it has none,
        self._behind_id = b""  # and behind it
        self._ended = False
        self._changes = 0
        self._secrets: dict[bytes, Field] = {}
        self.known: Any = None

    def read(self, block: bytes, ended: bool) -> RequestHead:
        """The request whose field block is ``block``; ``ended``: it has no body.

        :raises HpackError: the connection cannot be read on.
        :raises Endless: nor is it.
        :raises Malformed: it is none.
        :raises GatewayError: it is one, and gets this answer.
        """
        head = self.last
        if head is not None and ended == self._ended and self._again(head, block):
            return head
        self.last = self.known = None
        decoder = self._decoder
        changes = decoder.changes
        try:
            found = self._fields(block)
        except TooLong:
            raise GatewayError("head_too_large") from None
        head = self._judged(found, ended)
        if head.method == b"CONNECT":
            return head  # (each opens a session: whoever has it makes it another)
        if changes == decoder.changes and len(block) <= LAST_HEAD_BYTES:
            at = self._at = decoder.length_at
            if at or head.content_length < 0:
                self.last = head
                self._ended = ended
                self._changes = changes
                self._prefix = block[:at] if at else block
                self._suffix = block[decoder.length_end :] if at else b""
                self._note_id(head)
        return head

    def _note_id(self, head: RequestHead) -> None:
        """Where a request's own id stands, which is new each time: a gateway before this one says one with each."""
        self._before_id = b""
        prefix = self._prefix
        said = head.own.get(b"x-request-id") if head.own is not None else None
        if not said or not self._at:
            return
        at = prefix.rfind(_ID) + len(_ID)
        end = at + 1 + len(said)
        # (One that is said twice has no value.)
        if len(_ID) <= at < len(prefix) and prefix[at] == len(said) < _LONG and prefix[at + 1 : end] == said:
            self._before_id = prefix[:at]
            self._behind_id = prefix[end:]

    def _but_its_id(self, head: RequestHead, block: bytes) -> int:
        """Where the length's string begins, of a block that differs from the last in the request's id, which the head has then;
        0 = it differs in more."""
        before = self._before_id
        at = len(before)
        if not at or self.known is None or len(block) <= at or not block.startswith(before):
            return 0
        size = block[at]
        end = at + 1 + size
        value = block[at + 1 : end]
        if size >= _LONG or not block.startswith(self._behind_id, end) or not valid_request_id(value):
            return 0
        own = head.own
        assert own is not None
        own[b"x-request-id"] = value
        return end + len(self._behind_id)

    def _fields(self, block: bytes) -> list[Field]:
        decoder = self._decoder
        parts = cut(block, MOST_FIELDS) if decoder.keeps_nothing() else None
        if parts is None:
            return [Field(key, value) for key, value in decoder.fields(block)]
        found = known(parts, self._secrets)
        at = decoder.length_at = 0
        for part, one in zip(parts, found, strict=True):
            if one.key == b"content-length" and not part[0] & 0x80:
                decoder.length_at = at + value_at(part)
                decoder.length_end = at + len(part)
            at += len(part)
        return found

    def _again(self, head: RequestHead, block: bytes) -> bool:
        """Whether ``block`` says the same as the last, but for the length, which the head has then."""
        at = self._at
        if self._changes != self._decoder.changes:
            return False
        if not at:
            return block == self._prefix
        if not block.startswith(self._prefix):
            at = self._but_its_id(head, block)
            if not at:
                return False
        try:
            digits, end = string_at(block, at)
        except (HpackError, IndexError):
            return False
        if not digits.isdigit() or len(digits) > 18 or len(block) - end != len(self._suffix):
            return False
        if not block.endswith(self._suffix):
            return False
        length = int(digits)
        if length != head.content_length:
            if self.known is None:
                return False  # (whoever has it may need its length for longer)
            head.content_length = length
        return True

    def trailers(self, block: bytes) -> None:
        """Whether these can be trailers; what they say goes no further. Raises as :meth:`read`: GatewayError, behind all
        others, for one that could change whose a request is, as over HTTP/1."""
        try:
            found = self._decoder.fields(block)
        except TooLong:
            raise GatewayError("head_too_large") from None
        for key, value in found:
            checked_line(key, value)
        if any(forbidden_trailer(key) for key, _ in found):
            raise GatewayError("bad_request", "The request has trailers that must not be.", detail="forbidden trailer field")

    def skip(self, block: bytes) -> None:
        """A block that nobody wants to know of: the table has what it says. Raises HpackError and Endless."""
        with contextlib.suppress(TooLong):
            self._decoder.fields(block)

    def _judged(self, found: list[Field], ended: bool) -> RequestHead:
        pseudo, lines, length = _sorted(found)
        method = pseudo.get(b":method", b"")
        if method == b"CONNECT" and len(pseudo) == 2 and b":authority" in pseudo:
            raise GatewayError("method_not_allowed", "CONNECT is not offered.", allow=METHODS)
        path = pseudo.get(b":path", b"")
        protocol = pseudo.get(b":protocol")
        if not method or (method == b"CONNECT") != (protocol is not None) or pseudo.get(b":scheme") not in _SCHEMES:
            raise Malformed("pseudo-header fields that make no request")
        if path[:1] != b"/" and (path != b"*" or method != b"OPTIONS"):
            raise Malformed("the :path is not in order")
        if protocol is not None:
            _check_connect(pseudo, ended, length)
            lines.append(b"connection: upgrade\r\nupgrade: websocket\r\n")
            method = b"GET"
        elif not ended and length is None:
            lines.append(b"transfer-encoding: chunked\r\n")  # (it ends where its stream does)
        head = b"%b %b HTTP/1.1\r\n%b" % (method, path, b"".join(lines))
        if len(head) + 2 > self._max_bytes:
            raise GatewayError("head_too_large")
        head = head[:-2]
        judged = scan_request(head, -1, self._max_fields)
        if judged is None:
            try:
                judged = parse_request(head, self._max_fields)
            except GatewayError as error:
                if error.kind.name != "bad_request":
                    raise
                raise Malformed(error.message or "the head is malformed") from None
        if protocol is not None:
            judged.method = b"CONNECT"  # (so that nothing takes it that does not know what it is)
        return judged


def _check_connect(pseudo: dict[bytes, bytes], ended: bool, length: bytes | None) -> None:
    """What an extended CONNECT must be to ask for a WebSocket (RFC 8441 §4, §5), beside what all requests are."""
    if b":authority" not in pseudo:
        raise Malformed("pseudo-header fields that make no request")
    if pseudo[b":protocol"].lower() != b"websocket":
        raise GatewayError("not_implemented", "The only :protocol known is websocket.")
    if ended or length is not None:
        raise GatewayError("bad_request", "A WebSocket's stream stays open, and has no length.")


def _sorted(found: list[Field]) -> tuple[dict[bytes, bytes], list[bytes], bytes | None]:
    """Pseudo-fields; the others as lines of HTTP/1; and what is said of the length."""
    pseudo: dict[bytes, bytes] = {}
    lines: list[bytes] = []
    host: bytes | None = None
    length: bytes | None = None
    cookies: list[bytes] = []
    for one in found:
        key = one.key
        value = one.value
        if one.wrong:
            raise Malformed(one.wrong)
        if key[:1] == b":":
            if lines or cookies or host is not None or key not in _PSEUDO or key in pseudo:
                raise Malformed("a pseudo-header field where there can be none")
            pseudo[key] = value
            continue
        if key == b"te" and value != b"trailers":
            raise Malformed("TE with another value than trailers")
        if key == b"host":
            if host is not None:
                raise Malformed("the field host is repeated")
            host = value
            continue
        if key == b"cookie":
            cookies.append(value)  # (crumbs of one field: §8.2.3)
            continue
        if key == b"content-length":
            length = value
        lines.append(one.line)
    authority = pseudo.get(b":authority", host)
    if authority is None or (host is not None and host.lower() != authority.lower()):
        raise Malformed("no :authority, or another host")
    if cookies:
        lines.append(b"cookie: %b\r\n" % b"; ".join(cookies))
    return pseudo, [b"host: %b\r\n" % authority, *lines], length
