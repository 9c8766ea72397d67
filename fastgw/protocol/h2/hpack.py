"""Field blocks (RFC 7541), without a dynamic table on either side: what a block says depends on its bytes alone.

We tell every peer that our table has no room, and begin to write with an update to none (§4.2, §6.3): so a block, or a part
of one, that was read or written before can be remembered by its bytes, and connections share what they have learned. A client
writes its first blocks before it can know that: a :class:`Decoder` reads them by the table that the protocol begins with.
Huffman's code is read (``accel.huffman``), and not written. What is a secret (a key, a
cookie) is written as never to be indexed (§7.1.3), by whoever passes it on too.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from fastgw.accel.frames import text
from fastgw.accel.huffman import unpacked

MOST_LIST_BYTES: Final = 65536
"""Of a field section, as §6.5.2 of RFC 9113 counts it (32 bytes more for each field): what we announce, and what is read."""
MOST_FIELDS: Final = 200
MOST_READ_BYTES: Final = 262144
"""Of a client's field section, by the same count, that are gone through: behind :data:`MOST_LIST_BYTES` only to know what the
client's table is then, so that nothing but this request is lost (RFC 9113 §10.5.1)."""
MOST_READ_FIELDS: Final = 500  # and of its fields
MOST_NUMBER: Final = 1 << 24  # no length and no index that can be good is larger; the code for one could go on for ever

NO_TABLE: Final = b"\x20"
"""The encoder's word that it keeps no table: at the head of a connection's first block."""

_STATIC: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b":authority", b""), (b":method", b"GET"), (b":method", b"POST"), (b":path", b"/"), (b":path", b"/index.html"),
    (b":scheme", b"http"), (b":scheme", b"https"), (b":status", b"200"), (b":status", b"204"), (b":status", b"206"),
    (b":status", b"304"), (b":status", b"400"), (b":status", b"404"), (b":status", b"500"), (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"), (b"accept-language", b""), (b"accept-ranges", b""), (b"accept", b""),
    (b"access-control-allow-origin", b""), (b"age", b""), (b"allow", b""), (b"authorization", b""), (b"cache-control", b""),
    (b"content-disposition", b""), (b"content-encoding", b""), (b"content-language", b""), (b"content-length", b""),
    (b"content-location", b""), (b"content-range", b""), (b"content-type", b""), (b"cookie", b""), (b"date", b""),
    (b"etag", b""), (b"expect", b""), (b"expires", b""), (b"from", b""), (b"host", b""), (b"if-match", b""),
    (b"if-modified-since", b""), (b"if-none-match", b""), (b"if-range", b""), (b"if-unmodified-since", b""),
    (b"last-modified", b""), (b"link", b""), (b"location", b""), (b"max-forwards", b""), (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""), (b"range", b""), (b"referer", b""), (b"refresh", b""), (b"retry-after", b""),
    (b"server", b""), (b"set-cookie", b""), (b"strict-transport-security", b""), (b"transfer-encoding", b""),
    (b"user-agent", b""), (b"vary", b""), (b"via", b""), (b"www-authenticate", b""),
)  # fmt: skip
_WHOLE: Final = {field: 0x80 | at for at, field in enumerate(_STATIC, 1)}
_NAMES: Final = {name: at for at, (name, _) in reversed(list(enumerate(_STATIC, 1)))}
SECRET: Final = frozenset((b"api-key", b"authorization", b"cookie", b"proxy-authorization", b"set-cookie", b"x-api-key"))


class HpackError(ValueError):
    """The bytes are no field block: the connection cannot be read on."""


class TooLong(ValueError):
    """A field section is longer than :data:`MOST_LIST_BYTES`, or has more than :data:`MOST_FIELDS`."""


class Endless(ValueError):
    """A client's is longer than :data:`MOST_READ_BYTES`, or has more than :data:`MOST_READ_FIELDS`: the connection ends."""


# --- writing
def integer(value: int, bits: int, first: int) -> bytes:
    """``value`` in a prefix of so many ``bits``, below the other bits ``first`` of its byte (§5.1)."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((first | value,))
    out = bytearray((first | most,))
    value -= most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def name(key: bytes) -> bytes:
    """What begins a literal field that no table keeps: its value follows, as :func:`text`. ``key`` is in lower case."""
    first = 0x10 if key in SECRET else 0
    at = _NAMES.get(key, 0)
    return integer(at, 4, first) if at else bytes((first,)) + text(key)


def field(key: bytes, value: bytes) -> bytes:
    """One field; ``key`` is in lower case."""
    at = _WHOLE.get((key, value))
    return bytes((at,)) if at else name(key) + text(value)


def lines(block: bytes) -> bytes:
    """Whole lines of fields, as HTTP/1 has them (``Name: value``, CRLF)."""
    out = []
    for line in block.split(b"\r\n"):
        if line:
            key, _, value = line.partition(b":")
            out.append(field(key.lower(), value.strip(b" \t")))
    return b"".join(out)


# --- reading
def _number(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """The integer at ``at``, and where the next byte is (§5.1)."""
    most = (1 << bits) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 127) << shift
        if value > MOST_NUMBER or shift > 28:
            raise HpackError("an integer is too long")
        if byte < 128:
            return value, at
        shift += 7


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    packed = block[at] & 0x80
    size, at = _number(block, at, 7)
    end = at + size
    if end > len(block):
        raise HpackError("a field block ends within a string")
    if not size:
        return b"", at
    value = block[at:end]
    return (_unpacked(value) if packed else value), end


def _unpacked(value: bytes) -> bytes:
    try:
        return unpacked(value)
    except ValueError as error:
        raise HpackError(str(error)) from error


def fields(block: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a whole block, in their order.

    :raises HpackError: it is none, or speaks of a table that there is not.
    :raises TooLong: it is, and says too much.
    """
    out: list[tuple[bytes, bytes]] = []
    total = at = 0
    end = len(block)
    try:
        while at < end:
            first = block[at]
            if first & 0x80:
                which, at = _number(block, at, 7)
                if not 0 < which <= len(_STATIC):
                    raise HpackError("an index without an entry")
                key, value = _STATIC[which - 1]
            elif first & 0xE0 == 0x20:
                size, at = _number(block, at, 5)
                if size:
                    raise HpackError("the peer's table is larger than ours")
                if out:
                    raise HpackError("the size of a table changes within a block")
                continue
            else:
                which, at = _number(block, at, 6 if first & 0x40 else 4)
                if which > len(_STATIC):
                    raise HpackError("an index without an entry")
                if which:
                    key = _STATIC[which - 1][0]
                else:
                    key, at = _string(block, at)
                value, at = _string(block, at)
            total += len(key) + len(value) + 32
            if total > MOST_LIST_BYTES or len(out) >= MOST_FIELDS:
                raise TooLong("the field section is too long")
            out.append((key, value))
    except IndexError:
        raise HpackError("a field block ends within a field") from None
    return out


TABLE_BYTES: Final = 4096
"""Of a decoder's table, which is what the protocol begins with (RFC 9113 §6.5.2). Who was told that there is none and goes on
with it is understood."""
MOST_UPDATES: Final = 2  # of a table's size, at the head of one block (§4.2)


class Decoder:
    """Reads one connection's blocks, in their order, with a dynamic table. ``changes`` grows with each that changes the table:
    a block that left it as it was says the same again as long as that stands. ``length_at``: where in the block that was read
    last the value of ``content-length`` is, as a string; 0 = nowhere. ``length_end``: what stands behind it."""

    __slots__ = ("_entries", "_room", "_size", "changes", "length_at", "length_end")

    def __init__(self) -> None:
        self._entries: deque[tuple[bytes, bytes]] | None = None  # the newest first
        self._size = 0
        self._room = TABLE_BYTES
        self.changes = 0
        self.length_at = self.length_end = 0

    def fields(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """As :func:`fields`, and :exc:`Endless`. After an error other than TooLong it is of no use any more."""
        out: list[tuple[bytes, bytes]] = []
        total = at = updates = count = 0
        end = len(block)
        # (As locals they are C's own: for each field four objects would be made, to be compared.)
        read_bytes, read_fields, kept_bytes, kept_fields = MOST_READ_BYTES, MOST_READ_FIELDS, MOST_LIST_BYTES, MOST_FIELDS
        self.length_at = 0
        try:
            while at < end:
                first = block[at]
                if first & 0x80:
                    which, at = _number(block, at, 7)
                    key, value = self._entry(which)
                elif first & 0xE0 == 0x20:
                    updates += 1
                    if count or updates > MOST_UPDATES:
                        raise HpackError("the size of a table changes within a block, or too often")
                    size, at = _number(block, at, 5)
                    self._resize(size)
                    continue
                else:
                    which, at = _number(block, at, 6 if first & 0x40 else 4)
                    if which:
                        key = self._entry(which)[0]
                    else:
                        key, at = _string(block, at)
                    start = at
                    value, at = _string(block, at)
                    if first & 0x40:
                        self._add(key, value)
                    elif key == b"content-length":
                        self.length_at, self.length_end = start, at
                total += len(key) + len(value) + 32
                count += 1
                if total > read_bytes or count > read_fields:
                    raise Endless("a field section without end")
                if total <= kept_bytes and count <= kept_fields:
                    out.append((key, value))
        except IndexError:
            raise HpackError("a field block ends within a field") from None
        if len(out) < count:
            raise TooLong("the field section is too long")
        return out

    def keeps_nothing(self) -> bool:
        """Whether the peer knows that there is no table: a field means the same wherever it stands."""
        return not self._room

    def _entry(self, which: int) -> tuple[bytes, bytes]:
        if 0 < which <= len(_STATIC):
            return _STATIC[which - 1]
        entries = self._entries
        if not which or entries is None or which > len(_STATIC) + len(entries):
            raise HpackError("an index without an entry")
        return entries[which - len(_STATIC) - 1]

    def _resize(self, room: int) -> None:
        if room > TABLE_BYTES:
            raise HpackError("the peer's table is larger than ours")
        if room != self._room:
            self.changes += 1
            self._room = room
            self._shrink(room)

    def _add(self, key: bytes, value: bytes) -> None:
        """(One that has no room empties the table, and is no error: §4.4.)"""
        size = len(key) + len(value) + 32
        if not self._size and size > self._room:
            return  # (of who was told that there is no table, and offers every field all the same)
        self.changes += 1
        self._shrink(max(0, self._room - size))
        if size <= self._room:
            if self._entries is None:
                self._entries = deque()  # (which is most of what an idle connection would have here)
            self._entries.appendleft((key, value))
            self._size += size

    def _shrink(self, room: int) -> None:
        entries = self._entries
        while entries and self._size > room:
            key, value = entries.pop()
            self._size -= len(key) + len(value) + 32


def value_at(part: bytes) -> int:
    """Where in one literal field, as it is written, its value begins, as a string."""
    which, at = _number(part, 0, 6 if part[0] & 0x40 else 4)
    return at if which else _string(part, at)[1]


def string_at(block: bytes, at: int) -> tuple[bytes, int]:
    """The string at ``at``, and where what follows it begins. Raises HpackError, and IndexError where the block ends."""
    return _string(block, at)
