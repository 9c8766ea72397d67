"""The faults an engine can be told to have: their names, their grammar, and when one applies.

Owns: the table of names (the documentation and ``--help`` are generated from it), the parser and the choice per request.
Must never: do anything to a connection; the player does. A name or a value that is not understood is an error for whoever
wrote it, never ignored: a fault test that tests nothing is worse than none.

Grammar: ``name[=value][,name[=value]...]``; ``%XX`` in values is decoded, so a comma is ``%2C`` and CR LF is ``%0D%0A``.
"""

from __future__ import annotations

import base64
import binascii
import random
from collections import Counter
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

FAULT_HEADER: Final = b"x-sim-fault"


@dataclass(frozen=True, slots=True)
class Row:
    """One name. ``kind``: flag, count, real, bytes, base64, code or word; ``default`` stands in for a missing value."""

    name: str
    kind: str
    default: str | None
    group: str
    help: str


_ROWS: Final = (
    Row("close", "flag", "", "before the head", "close the connection (FIN) instead of answering"),
    Row("reset", "flag", "", "before the head", "reset the connection (RST) instead of answering"),
    Row("stall-before", "flag", "", "before the head", "never answer"),
    Row("garbage", "flag", "", "before the head", "answer with bytes that are not HTTP, then close"),
    Row("raw", "base64", None, "before the head", "send exactly these bytes, then close"),
    Row("unsolicited-101", "flag", "", "before the head", "answer 101 Switching Protocols that nobody asked for"),
    Row("close-on-reuse", "flag", "", "before the head", "close, before any byte, when a second request comes"),
    Row("no-read", "flag", "", "before the head", "never read the request's body, never answer"),
    Row("status", "count", None, "head", "answer with this status and an error body"),
    Row("retry-after", "bytes", "1", "head", "with status: the Retry-After field"),
    Row("redirect", "bytes", None, "head", "answer 307 with this Location"),
    Row("stall-head", "flag", "", "head", "send the head, then nothing"),
    Row("slow-head", "real", "10", "head", "send the head one byte at a time, this many ms apart"),
    Row("close-in-head", "count", "20", "head", "close after this many bytes of the head"),
    Row("head", "count", "300000", "head", "pad the head to this many bytes"),
    Row("endless-head", "flag", "", "head", "send header lines for ever"),
    Row("many-headers", "count", "10000", "head", "add this many header lines"),
    Row("status-line", "bytes", None, "head", "send this instead of the status line"),
    Row("header", "bytes", None, "head", "add this line to the head as it is (Name:Value); can be repeated"),
    Row("1xx", "count", "1", "head", "send this many 103 Early Hints first"),
    Row("http10", "flag", "", "head", "answer as HTTP/1.0, the body ended by the close"),
    Row("sse-content-length", "flag", "", "head", "frame a streamed answer by Content-Length"),
    Row("wrong-length", "count", "100", "head", "declare a Content-Length this much too large, then close"),
    Row("short-length", "count", "10", "head", "declare a Content-Length this much too small, then close"),
    Row("reset-after", "count", None, "body", "reset after this many bytes of the body on the wire, framing included"),
    Row("close-after", "count", None, "body", "close after this many bytes of the body on the wire"),
    Row("stall-after", "count", None, "body", "fall silent after this many bytes of the body on the wire"),
    Row("reset-after-events", "count", "1", "body", "reset after this many events"),
    Row("close-after-events", "count", "1", "body", "close after this many events, without a terminator"),
    Row("stall-after-events", "count", "1", "body", "fall silent after this many events"),
    Row("end-after-events", "count", "1", "body", "end the message cleanly after this many events, without [DONE]"),
    Row("truncate-chunk", "flag", "", "body", "declare a longer chunk than is sent, then close"),
    Row("half-chunk", "flag", "", "body", "send half of a chunk, then close"),
    Row("half-event", "flag", "", "body", "send half an event in a good chunk, then close (or end cleanly, with clean-end)"),
    Row("bad-chunk", "flag", "", "body", "send a chunk size that is none, and keep the connection open"),
    Row("no-terminator", "flag", "", "body", "close instead of sending the last chunk"),
    Row("error-event", "flag", "", "body", "send the engine's own SSE error, then end cleanly"),
    Row("one-byte-chunks", "flag", "", "body", "send each byte of the body as a chunk and a segment of its own"),
    Row("split", "count", "7", "body", "send the body in chunks of this many bytes"),
    Row("gather", "count", "65536", "body", "hold events back until this many bytes are there, then send one chunk"),
    Row("burst", "count", "65536", "body", "make every token this many bytes longer"),
    Row("close-after-answer", "flag", "", "body", "close after a complete answer that did not announce it"),
    Row("rst", "code", "INTERNAL_ERROR", "HTTP/2", "reset the stream with this code; before the head, or after after-events"),
    Row("rst-after-answer", "code", "NO_ERROR", "HTTP/2", "reset the stream after the complete answer"),
    Row("goaway", "word", "graceful", "HTTP/2", "say GOAWAY: graceful, double, zero or below (this stream is not processed)"),
    Row("goaway-code", "code", "NO_ERROR", "HTTP/2", "with goaway: the code that it names"),
    Row("max-streams", "count", "1", "HTTP/2", "set MAX_CONCURRENT_STREAMS to this; streams beyond it are refused"),
    Row("window", "count", "0", "HTTP/2", "set INITIAL_WINDOW_SIZE to this"),
    Row("no-credit", "real", "1000", "HTTP/2", "send no WINDOW_UPDATE for so long"),
    Row("trailer", "bytes", None, "HTTP/2", "end with this trailer (Name:Value); can be repeated"),
    Row("continuation", "count", "3", "HTTP/2", "send the head in HEADERS and so many CONTINUATION frames"),
    Row("continuation-flood", "count", "10000", "HTTP/2", "send so many CONTINUATION frames, none of them the last"),
    Row("hpack-bomb", "count", "8000", "HTTP/2", "send a head that refers so often to an entry of 4 kB"),
    Row("ping-flood", "count", "10000", "HTTP/2", "send so many PINGs first"),
    Row("settings-flood", "count", "10000", "HTTP/2", "send so many SETTINGS first"),
    Row("empty-data", "count", "10000", "HTTP/2", "send so many empty DATA frames before the body"),
    Row("pad", "count", "100", "HTTP/2", "pad every DATA frame by so many bytes"),
    Row("frames", "base64", None, "HTTP/2", "send exactly these bytes before the head, and go on"),
    Row("ttft-ms", "real", None, "pace", "time to the first token, instead of --ttft-ms"),
    Row("itl-ms", "real", None, "pace", "time between tokens, instead of --itl-ms"),
    Row("tokens", "count", None, "pace", "output tokens, instead of max_tokens"),
    Row("after-events", "count", None, "when", "with the faults of one event or chunk: so many events before it"),
    Row("clean-end", "flag", "", "when", "with half-event: end with the last chunk instead of a bare close"),
    Row("early", "flag", "", "when", "answer as soon as the request's head is in, without reading its body"),
    Row("times", "count", "1", "when", "only for the first so many requests with this very fault text"),
    Row("key", "bytes", None, "when", "with times: tells equal fault texts apart"),
    Row("on-reuse", "flag", "", "when", "only for a request that is not the first on its connection"),
)  # fmt: skip
CODES: Final = {
    name: number for number, name in enumerate((
        "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
        "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
    ))
}  # fmt: skip
"""RFC 9113 section 7."""
TABLE: Final[dict[str, Row]] = {row.name: row for row in _ROWS}

# What is about chunks and status lines, or about a connection that serves one request after the other.
H1_ONLY: Final = (
    *("unsolicited-101", "close-on-reuse", "slow-head", "close-in-head", "endless-head", "status-line", "http10"),
    *("truncate-chunk", "half-chunk", "bad-chunk", "no-terminator"),
)
GOAWAYS: Final = (b"graceful", b"double", b"zero", b"below")

# What only shapes the generation: with nothing else given, the ordinary path serves the request.
_PACE: Final = frozenset({"ttft-ms", "itl-ms", "tokens", "burst", "after-events", "clean-end", "times", "key", "on-reuse"})


def markdown_table() -> str:
    """The table as the documentation shows it."""
    lines = ["| fault | when | what the engine does |", "|---|---|---|"]
    for row in _ROWS:
        value = {
            "flag": "",
            "count": "=N",
            "real": "=MS",
            "bytes": "=TEXT",
            "base64": "=BASE64",
            "code": "=CODE",
            "word": "=WORD",
        }[row.kind]
        said = {"code": "CODE", "word": "WORD"}.get(row.kind, "N")
        note = (
            f" ({said} is {row.default} when not given)" if row.kind not in ("flag", "bytes", "base64") and row.default else ""
        )
        lines.append(f"| `{row.name}{value}` | {row.group} | {row.help}{note} |")
    return "\n".join(lines)


class FaultError(ValueError):
    """A fault text that is not understood; the message says which part."""


class Faults:
    """The faults of one request, parsed and checked."""

    __slots__ = ("_values", "headers", "text", "trailers")

    def __init__(self, text: str) -> None:
        self.text = text
        self._values: dict[str, bytes] = {}
        self.headers: list[bytes] = []
        self.trailers: list[bytes] = []
        for item in filter(None, (piece.strip() for piece in text.split(","))):
            name, given, raw = item.partition("=")
            row = TABLE.get(name)
            if row is None:
                raise FaultError(f"no fault is called {name!r}")
            if not given and row.default is None:
                raise FaultError(f"{name} needs a value")
            value = _value(row, raw if given else row.default or "")
            if name == "header":
                self.headers.append(value)
            if name == "trailer":
                self.trailers.append(value)
            self._values[name] = value

    def __repr__(self) -> str:
        return f"<Faults {self.text!r}>"

    def __contains__(self, name: str) -> bool:
        return name in self._values

    @property
    def only_pace(self) -> bool:
        return self._values.keys() <= _PACE

    @property
    def of_h2(self) -> str:
        """One of them that has a meaning only on HTTP/2; empty when there is none."""
        return next((name for name in self._values if TABLE[name].group == "HTTP/2"), "")

    def code(self, name: str) -> int:
        """An error code of HTTP/2; NO_ERROR when it is not said."""
        return CODES[self._values.get(name, b"NO_ERROR").decode()]

    def count(self, name: str, otherwise: int = 0) -> int:
        value = self._values.get(name)
        return otherwise if value is None else int(value)

    def real(self, name: str) -> float | None:
        value = self._values.get(name)
        return None if value is None else float(value)

    def raw(self, name: str) -> bytes:
        return self._values.get(name, b"")


def _value(row: Row, raw: str) -> bytes:
    value = unquote_to_bytes(raw)
    if row.kind == "flag" and value:
        # `bad-chunk=3` reads naturally, so say where the number belongs instead of ignoring it.
        raise FaultError(f"{row.name} takes no value (see after-events)")
    if row.kind == "count" and not value.isdigit():
        raise FaultError(f"{row.name}={raw} is not a whole number")
    if row.kind == "real":
        try:
            good = 0 <= float(value) < 1e9
        except ValueError:
            good = False
        if not good:
            raise FaultError(f"{row.name}={raw} is not a number of milliseconds")
    if row.kind == "code" and value.decode("latin-1") not in CODES:
        raise FaultError(f"{row.name}={raw} is none of {', '.join(CODES)}")
    if row.kind == "word" and value not in GOAWAYS:
        raise FaultError(f"{row.name}={raw} is none of graceful, double, zero, below")
    if row.kind == "base64":
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise FaultError(f"{row.name} is not base64: {error}") from error
    return value


class FaultChooser:
    """Which faults a request gets: its header's, else the configured ones at the configured rate, else None.

    Configured faults are for the API (POST requests and WebSockets under ``/v1/``), so that health probes and metrics stay
    true; a header works anywhere. The header ``none`` asks for no fault at all.
    """

    __slots__ = ("_configured", "_parsed", "_rate", "_seen", "_source")

    def __init__(self, configured: str, rate: float, seed: int) -> None:
        self._configured = Faults(configured) if configured else None
        self._rate = rate
        self._source = random.Random(seed)  # noqa: S311 - reproducible faults, not secrets
        self._parsed: dict[str, Faults] = {}
        self._seen: Counter[str] = Counter()

    def choose(self, header: bytes | None, method: str, path: str, on_connection: int) -> Faults | None:
        """FaultError when the header is not understood."""
        if header is None:
            faults = self._configured
            if faults is None or method != "POST" or not path.startswith("/v1/"):
                return None
            if self._rate < 1.0 and self._source.random() >= self._rate:
                return None
        else:
            text = header.decode("latin-1").strip()
            if text in ("", "none"):
                return None
            faults = self._parsed.get(text)
            if faults is None:
                faults = Faults(text)
                if len(self._parsed) < 256:
                    self._parsed[text] = faults
        if "on-reuse" in faults and on_connection < 2:
            return None
        if "times" in faults:
            if self._seen[faults.text] >= faults.count("times"):
                return None
            if len(self._seen) < 65536:
                self._seen[faults.text] += 1
        return faults
