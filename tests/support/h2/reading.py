"""What came, frame by frame, in words that a row can be held against; whoever breaks the protocol is told so here.

Owns: the strict reading of a side's frames. A frame is a :class:`Seen`, its words are those of :meth:`Seen.words`; a header
block in several frames is one Seen. :class:`ProtocolBroken` is raised for what RFC 9113 forbids that side to send, so that a
test finds it without looking for it: DATA beyond the window, a frame beyond the size that was allowed, a stream identifier that
goes back, frames on a stream that has ended, a header block that is interrupted or cannot be decoded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from hpack import Decoder
from hpack.exceptions import HPACKError

from tests.support.h2.frames import (
    ACK,
    CODES,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME,
    GOAWAY,
    HEADERS,
    PADDED,
    PARAMETERS,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    TYPES,
    WINDOW,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Field,
)

_CODE_NAMES: Final = {code: name for name, code in CODES.items()}
_PARAMETER_NAMES: Final = {number: name for name, number in PARAMETERS.items()}
_BLOCK_BYTES: Final = 1 << 20


class ProtocolBroken(AssertionError):
    """The other side has sent what RFC 9113 does not allow it to."""


@dataclass
class Seen:
    """One frame, or one header block with its CONTINUATIONs."""

    kind: str
    stream: int
    flags: int = 0
    payload: bytes = b""
    fields: tuple[Field, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)

    def words(self) -> list[str]:
        """Type, stream, flags, then ``name=value`` of what it says, header fields among them."""
        out = [self.kind, str(self.stream)]
        if self.kind in ("SETTINGS", "PING"):
            out += ["ack"] if self.flags & ACK else []
        elif self.kind in ("DATA", "HEADERS"):
            out += ["end"] if self.flags & END_STREAM else []
        out += [f"{name}={value}" for name, value in self.facts.items()]
        out += [f"{name.decode('latin-1')}={value.decode('latin-1')}" for name, value in self.fields]
        return out

    def __str__(self) -> str:
        return " ".join(self.words())

    def value(self, name: bytes) -> bytes | None:
        """Of the first field of that name."""
        return next((value for key, value in self.fields if key == name), None)

    @property
    def ends(self) -> bool:
        return self.kind in ("DATA", "HEADERS") and bool(self.flags & END_STREAM)

    def is_a(self, row: str) -> bool:
        """Whether every word of ``row`` holds for it: ``"HEADERS 1 end :status=200"``, ``"RST_STREAM code=CANCEL|NO_ERROR"``.

        ``%20`` in a value is a blank; ``|`` stands between what may be there; ``!end``: not there.
        """
        mine = self.words()
        known = dict(word.split("=", 1) if "=" in word[1:] else (word, "") for word in mine)
        for word in row.split():
            name, has_value, value = word.partition("=")
            if word.startswith("!"):
                if word[1:] in mine or word[1:] in known:
                    return False
            elif has_value and name:
                if unquote(known.get(name, "\0"), "latin-1") not in [unquote(one, "latin-1") for one in value.split("|")]:
                    return False
            elif "|" in word:
                if not set(word.split("|")) & set(mine):
                    return False
            elif word not in mine:
                return False
        return True


class Reader:
    """Bytes of one side into :class:`Seen`. ``of_client``: whose side is read; a client's begins with its preface.

    What it may send follows from what the reading side has said: :meth:`allowed` is told all that was sent to it.
    ``strict`` off: no more is refused than what cannot be read at all.
    """

    def __init__(self, of_client: bool, strict: bool = True) -> None:
        self.of_client = of_client
        self.strict = strict
        self.preface = not of_client
        self.most_bytes = FRAME
        self.streams: dict[int, int] = {}  # window that is left to it, of each stream
        self.ended: set[int] = set()
        self.window = WINDOW
        self.first_window = WINDOW
        self.highest = 0
        self.bytes_seen = 0
        self._buffer = b""
        self._said: list[dict[int, int]] = []  # settings that it has not acknowledged
        self._decoder = Decoder(max_header_list_size=_BLOCK_BYTES)
        self._open: Seen | None = None

    # --- what it may send
    def allowed(self, data: bytes) -> None:
        """The reading side sends these bytes: windows and settings among them. What takes away holds from the ACK on."""
        while len(data) >= 9:
            length, kind, flags = int.from_bytes(data[:3], "big"), data[3], data[4]
            stream, payload = int.from_bytes(data[5:9], "big") & 0x7FFF_FFFF, data[9 : 9 + length]
            data = data[9 + length :]
            if kind == WINDOW_UPDATE and length == 4:
                increment = int.from_bytes(payload, "big") & 0x7FFF_FFFF
                if not stream:
                    self.window += increment
                else:
                    self.streams[stream] = self.streams.get(stream, self.first_window) + increment
            elif kind == SETTINGS and not flags & ACK and not length % 6:
                given = {
                    int.from_bytes(payload[at : at + 2], "big"): int.from_bytes(payload[at + 2 : at + 6], "big")
                    for at in range(0, length, 6)
                }
                self._said.append(given)
                self._settle(given, False)

    def _settle(self, given: dict[int, int], acknowledged: bool) -> None:
        first = given.get(PARAMETERS["INITIAL_WINDOW_SIZE"], self.first_window)
        if acknowledged or first > self.first_window:
            self.streams = {stream: left + first - self.first_window for stream, left in self.streams.items()}
            self.first_window = first
        table = given.get(PARAMETERS["HEADER_TABLE_SIZE"], self._decoder.max_allowed_table_size)
        if acknowledged or table > self._decoder.max_allowed_table_size:
            self._decoder.max_allowed_table_size = table
        self.most_bytes = max(self.most_bytes, given.get(PARAMETERS["MAX_FRAME_SIZE"], FRAME))

    # --- what it sends
    def feed(self, data: bytes) -> list[Seen]:
        """The whole frames that these bytes complete."""
        self.bytes_seen += len(data)
        self._buffer += data
        if not self.preface:
            if len(self._buffer) < len(PREFACE):
                self._must(PREFACE.startswith(self._buffer), f"no preface: {self._buffer[:40]!r}")
                return []
            self._must(self._buffer.startswith(PREFACE), f"no preface: {self._buffer[:40]!r}")
            self._buffer = self._buffer[len(PREFACE) :]
            self.preface = True
        out = []
        while len(self._buffer) >= 9:
            length = int.from_bytes(self._buffer[:3], "big")
            self._must(length <= self.most_bytes, f"a frame of {length} bytes, where {self.most_bytes} are allowed")
            if len(self._buffer) < 9 + length:
                break
            kind, flags = self._buffer[3], self._buffer[4]
            stream = int.from_bytes(self._buffer[5:9], "big") & 0x7FFF_FFFF
            payload, self._buffer = self._buffer[9 : 9 + length], self._buffer[9 + length :]
            seen = self._one(kind, flags, stream, payload)
            if seen is not None:
                out.append(seen)
        return out

    @property
    def partial(self) -> bytes:
        """Bytes of a frame that is not all there."""
        return self._buffer

    def _one(self, kind: int, flags: int, stream: int, payload: bytes) -> Seen | None:
        begun = self._open
        if begun is not None:
            self._must(kind == CONTINUATION and stream == begun.stream, f"a header block is interrupted by type {kind}")
            begun.payload += payload
            begun.facts["frames"] = str(int(begun.facts["frames"]) + 1)
            return self._block(begun) if flags & END_HEADERS else None
        self._must(kind != CONTINUATION, "CONTINUATION without HEADERS")
        seen = Seen(TYPES[kind] if kind < len(TYPES) else f"TYPE_{kind}", stream, flags, payload)
        match kind:
            case _ if kind == DATA:
                self._data(seen)
            case _ if kind in (HEADERS, PUSH_PROMISE):
                seen.payload = self._unpadded(seen)
                if kind == HEADERS and flags & WITH_PRIORITY:
                    seen.facts["priority"] = seen.payload[:5].hex()
                    seen.payload = seen.payload[5:]
                if kind == PUSH_PROMISE:
                    seen.facts["promised"] = str(int.from_bytes(seen.payload[:4], "big"))
                    seen.payload = seen.payload[4:]
                seen.facts["frames"] = "1"
                if not flags & END_HEADERS:
                    self._open = seen
                    return None
                return self._block(seen)
            case _ if kind == SETTINGS:
                self._must(not stream and not len(payload) % 6 and not (flags & ACK and payload), "SETTINGS that are none")
                if flags & ACK:
                    self._must(bool(self._said), "an ACK of SETTINGS that nobody has sent")
                    if self._said:
                        self._settle(self._said.pop(0), True)
                for at in range(0, len(payload), 6):
                    number = int.from_bytes(payload[at : at + 2], "big")
                    name = _PARAMETER_NAMES.get(number, f"SETTING_{number}")
                    seen.facts[name] = str(int.from_bytes(payload[at + 2 : at + 6], "big"))
            case _ if kind == RST_STREAM:
                self._must(stream > 0 and len(payload) == 4, "RST_STREAM that is none")
                seen.facts["code"] = _code(payload)
                self.ended.add(stream)
            case _ if kind == GOAWAY:
                self._must(not stream and len(payload) >= 8, "GOAWAY that is none")
                seen.facts |= {"last": str(int.from_bytes(payload[:4], "big")), "code": _code(payload[4:8])}
            case _ if kind == WINDOW_UPDATE:
                increment = int.from_bytes(payload, "big")
                self._must(len(payload) == 4 and 0 < increment < 1 << 31, "WINDOW_UPDATE that is none")
                seen.facts["increment"] = str(increment)
            case _ if kind == PING:
                self._must(not stream and len(payload) == 8, "PING that is none")
                seen.facts["opaque"] = payload.hex()
            case _ if kind == PRIORITY:
                seen.facts["priority"] = payload.hex()
        return seen

    def _data(self, seen: Seen) -> None:
        size = len(seen.payload)
        self._must(seen.stream in self.streams, "DATA on a stream without HEADERS")
        self._must(seen.stream not in self.ended, "DATA on a stream that it has ended")
        self.window -= size
        self.streams[seen.stream] = self.streams.get(seen.stream, self.first_window) - size
        left = min(self.window, self.streams[seen.stream])
        self._must(left >= 0 or not size, f"DATA beyond the window, by {-left} bytes")
        seen.payload = self._unpadded(seen)
        seen.facts["length"] = str(len(seen.payload))
        if seen.ends:
            self.ended.add(seen.stream)

    def _block(self, seen: Seen) -> Seen:
        self._open = None
        try:
            pairs = self._decoder.decode(seen.payload, raw=True)
        except HPACKError as error:
            raise ProtocolBroken(f"a header block that cannot be decoded: {error!r}") from error
        seen.fields = tuple((bytes(name), bytes(value)) for name, value in pairs)
        stream = seen.stream
        self._must(stream > 0, "HEADERS on stream 0")
        self._must(stream not in self.ended, "HEADERS on a stream that it has ended")
        if stream not in self.streams:
            if self.of_client:
                self._must(stream % 2 == 1 and stream > self.highest, f"stream {stream} after {self.highest}")
                self.highest = max(self.highest, stream)
            self.streams[stream] = self.first_window
        self._must(all(name == name.lower() for name, _ in seen.fields), "a field name with capitals")
        if seen.ends:
            self.ended.add(stream)
        return seen

    def _unpadded(self, seen: Seen) -> bytes:
        if not seen.flags & PADDED:
            return seen.payload
        self._must(bool(seen.payload) and seen.payload[0] < len(seen.payload), "more padding than frame")
        return seen.payload[1 : len(seen.payload) - seen.payload[0]]

    def _must(self, right: bool, otherwise: str) -> None:
        if self.strict and not right:
            raise ProtocolBroken(otherwise)


def _code(payload: bytes) -> str:
    number = int.from_bytes(payload, "big")
    return _CODE_NAMES.get(number, str(number))
