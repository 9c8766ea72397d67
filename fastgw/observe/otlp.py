"""Spans as OTLP has them: protobuf, written at once (opentelemetry-proto, ``trace/v1/trace.proto``).

The generated classes cost an object for each attribute, and so does the SDK's own encoder on top of its spans: the six of a
request took 245 µs by them and take 35 here (``benchmarks.micro.traced``), in a thread that has the interpreter meanwhile.
The tests hold what is written against the generated classes. Must never: read anything; only what is our own is written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from struct import Struct
from typing import Final

Value = str | bool | int | float | tuple["Value", ...]

SERVER: Final = b"\x02"
CLIENT: Final = b"\x03"
INTERNAL: Final = b"\x01"

_TIMES: Final = Struct("<cQcQ").pack
_DOUBLE: Final = Struct("<cd").pack
_FROM_HERE: Final = b"\x85\x01\x00\x01\x00\x00"  # flags: whether the parent is another's is known, and it is not
_FROM_AFAR: Final = b"\x85\x01\x00\x03\x00\x00"  # it is
_WORD: Final = (1 << 64) - 1


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_NUMBERS: Final = tuple(_number(value) for value in range(1024))


def number(value: int) -> bytes:
    """``value``, not negative, as a varint."""
    return _NUMBERS[value] if value < 1024 else _number(value)


def part(tag: bytes, data: bytes) -> bytes:
    """A field of bytes, with their length."""
    return tag + number(len(data)) + data


@lru_cache(256)
def _key(name: str) -> bytes:
    return part(b"\x0a", name.encode())


def _value(value: Value) -> bytes:
    if isinstance(value, str):
        return part(b"\x0a", value.encode("utf-8", "replace"))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + number(value & _WORD)
    if isinstance(value, float):
        return _DOUBLE(b"\x21", value)
    return part(b"\x2a", b"".join([part(b"\x0a", _value(one)) for one in value]))


def attributes(about: Mapping[str, Value], tag: bytes = b"\x4a") -> bytes:
    """The attributes of a span (of something else, by its ``tag``)."""
    return b"".join([part(tag, _key(name) + part(b"\x12", _value(value))) for name, value in about.items()])


def status(why: str) -> bytes:
    """It has failed, and of what."""
    return part(b"\x7a", part(b"\x12", why.encode("utf-8", "replace")) + b"\x18\x02")


def identity(trace_id: bytes, state: bytes) -> tuple[bytes, bytes]:
    """What all spans of a trace have: its id (16 bytes), and its state."""
    return b"\x0a\x10" + trace_id + b"\x12\x08", part(b"\x1a", state) if state else b""


def span(
    whose: tuple[bytes, bytes], span_id: bytes, parent: bytes, name: str, kind: bytes, start: int, end: int, about: bytes,
    failed: bytes = b"", remote: bool = False,
) -> bytes:  # fmt: skip
    """One span as a scope has it. Ids have 8 bytes, ``parent`` may be b""; times are in nanoseconds; ``about`` is what
    :func:`attributes` and ``failed`` what :func:`status` returned."""
    told = name.encode("utf-8", "replace")
    body = b"".join(
        (
            whose[0], span_id, whose[1], b"\x22\x08" if parent else b"", parent, b"\x2a", number(len(told)), told, b"\x30",
            kind, _TIMES(b"\x39", start, b"\x41", end), about, failed, _FROM_AFAR if remote else _FROM_HERE,
        )
    )  # fmt: skip
    return b"\x12" + number(len(body)) + body


class Source:
    """Whose spans they are: the program, by its attributes, and what made them."""

    def __init__(self, about: Mapping[str, Value], schema_url: str, name: str, version: str) -> None:
        self._resource = part(b"\x0a", attributes(about, b"\x0a"))
        self._schema = part(b"\x1a", schema_url.encode()) if schema_url else b""
        self._scope = part(b"\x0a", part(b"\x0a", name.encode()) + part(b"\x12", version.encode()))

    def request(self, spans: Iterable[bytes]) -> bytes:
        """An ExportTraceServiceRequest."""
        scope = self._scope + b"".join(spans)
        return part(b"\x0a", self._resource + part(b"\x12", scope) + self._schema)
