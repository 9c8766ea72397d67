"""CASES G1 to G12: what an engine does with the requests of a gateway that are under way, and what their clients must see.

A row is played by hand (``plays``: frames, told the streams that it has, in their order) or by the simulator (``fault``: what
the request asks for in ``x-sim-fault``; ``face``: how the connection is met, as ``/debug/h2`` takes it). Where there are both,
they are the same. The outcomes, of each stream in its order:

    whole    the client has the engine's whole answer, byte for byte
    again    nothing of it was processed: it is sent once more, without asking, and the client sees no trace
    502      the client has an error of the gateway's own (5xx), and no byte of the engine's
    abort    the client has the beginning, then an error event, and no clean end (or 502, where its head had not gone down yet)
    h1       the engine speaks HTTP/1.1: that is learned, and the request is answered over it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tests.support.h2 import frames as f

Outcome = Literal["whole", "again", "502", "abort", "h1"]
Plays = Callable[[Sequence[int]], bytes]
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
DONE = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
HEAD = (*f.OK, (b"content-type", b"text/event-stream"))


@dataclass(frozen=True, slots=True)
class Row:
    """``requests``: so many streamed ones are under way, on one connection, when the engine does it.

    ``then``: what becomes of the connection: ``kept``, or ``left`` (nothing more is asked on it). ``first``: its SETTINGS.
    """

    id: str
    section: str
    says: str
    outcomes: tuple[Outcome, ...]
    plays: Plays | None = None
    fault: str = ""
    face: dict[str, str | int] = field(default_factory=dict)
    then: Literal["kept", "left"] = "left"
    first: bytes = f.settings()

    @property
    def requests(self) -> int:
        return len(self.outcomes)


def begun(stream: int) -> bytes:
    return f.headers(stream, HEAD) + f.data(stream, EVENT)


def ended(stream: int) -> bytes:
    return f.data(stream, DONE, end=True)


def whole(stream: int) -> bytes:
    return begun(stream) + ended(stream)


ROWS: tuple[Row, ...] = (
    Row("G1/1", "RFC 9113 6.8", "GOAWAY that names all streams, which it then finishes", ("whole", "whole"),
        lambda s: begun(s[0]) + f.goaway(s[1]) + ended(s[0]) + whole(s[1]), "goaway"),
    Row("G1/2", "RFC 9113 6.8", "GOAWAY in the middle of answers", ("whole", "whole"),
        lambda s: begun(s[0]) + begun(s[1]) + f.goaway(s[1]) + ended(s[1]) + ended(s[0]), "goaway,after-events=1"),
    Row("G1/3", "RFC 9113 6.8", "GOAWAY, then the end of the connection before the answers' ends", ("abort",),
        lambda s: begun(s[0]) + f.goaway(s[0]), "goaway,close-after-events=1"),
    Row("G2/1", "RFC 9113 8.7", "GOAWAY that names none", ("again", "again"), lambda s: f.goaway(0), "goaway=zero"),
    Row("G2/2", "RFC 9113 8.7", "GOAWAY that names the first of two", ("whole", "again"),
        lambda s: f.goaway(s[0]) + whole(s[0]), "goaway=below"),
    Row("G2/3", "RFC 9113 6.8", "GOAWAY twice, as servers do that shut down gracefully", ("whole", "again"),
        lambda s: f.goaway((1 << 31) - 1) + begun(s[0]) + f.goaway(s[0]) + ended(s[0]), "goaway=double"),
    Row("G2/4", "RFC 9113 6.8", "GOAWAY with an error, for streams that were processed", ("502",),
        lambda s: f.goaway(s[0], "INTERNAL_ERROR"), "goaway,goaway-code=INTERNAL_ERROR,close"),
    Row("G3/1", "RFC 9113 8.7", "RST_STREAM REFUSED_STREAM", ("again",), lambda s: f.rst(s[0], "REFUSED_STREAM"),
        "rst=REFUSED_STREAM", then="kept"),
    Row("G3/2", "RFC 9113 8.1", "RST_STREAM INTERNAL_ERROR before the head", ("502",), lambda s: f.rst(s[0], "INTERNAL_ERROR"),
        "rst", then="kept"),
    Row("G3/3", "RFC 9113 8.1", "RST_STREAM INTERNAL_ERROR in the middle", ("abort",),
        lambda s: begun(s[0]) + f.rst(s[0], "INTERNAL_ERROR"), "rst,after-events=1", then="kept"),
    Row("G3/4", "RFC 9113 8.1", "RST_STREAM NO_ERROR after the whole answer", ("whole",),
        lambda s: whole(s[0]) + f.rst(s[0], "NO_ERROR"), "rst-after-answer", then="kept"),
    Row("G3/5", "RFC 9113 8.1", "RST_STREAM NO_ERROR in the middle", ("abort",),
        lambda s: begun(s[0]) + f.rst(s[0], "NO_ERROR"),
        "rst=NO_ERROR,after-events=1", then="kept"),
    Row("G3/6", "RFC 9113 8.7", "one of two is refused, the other goes on", ("again", "whole"),
        lambda s: f.rst(s[0], "REFUSED_STREAM") + whole(s[1]), then="kept"),
    Row("G4/1", "RFC 9113 5.4", "the connection ends before the head, without GOAWAY", ("502",), None, "close"),
    Row("G4/2", "RFC 9113 5.4", "the connection ends in the middle", ("abort",), None, "close-after-events=1"),
    Row("G5/1", "RFC 9113 5.1.2", "MAX_CONCURRENT_STREAMS of 1 from the beginning", ("whole", "whole"), face={"max_streams": 1},
        then="kept"),
    Row("G5/2", "RFC 9113 5.1.2", "MAX_CONCURRENT_STREAMS of 0: another connection, or an answer that says so", ("502",),
        face={"max_streams": 0}, then="kept"),
    Row("G5/3", "RFC 9113 5.1.2", "MAX_CONCURRENT_STREAMS that becomes 1 while two are under way", ("whole", "whole"),
        lambda s: f.settings(MAX_CONCURRENT_STREAMS=1) + whole(s[0]) + whole(s[1]), "max-streams=1", then="kept"),
    Row("G6/1", "RFC 9113 6.9", "windows of 1 byte for what is sent to it", ("whole",), face={"window_bytes": 1}, then="kept"),
    Row("G6/2", "RFC 9113 6.9", "no credit for a second", ("whole",), fault="no-credit=1000", then="kept"),
    Row("G6/3", "RFC 9113 6.9.2", "a window that becomes 0 while the request's body is sent", ("whole",),
        lambda s: f.settings(INITIAL_WINDOW_SIZE=0) + f.window(s[0], 1 << 20) + whole(s[0]), "window=0", then="kept"),
    Row("G7/1", "RFC 9113 8.1", "trailers", ("whole",),
        lambda s: begun(s[0]) + f.data(s[0], DONE) + f.headers(s[0], f.fields("x-sum: 1"), end=True),
        "trailer=x-sum:1", then="kept"),
    Row("G7/2", "RFC 9113 8.1", "103 before the head", ("whole",),
        lambda s: f.headers(s[0], f.fields(":status: 103", "link: </a>")) + whole(s[0]), "1xx=3", then="kept"),
    Row("G7/3", "RFC 9113 6.1", "DATA with padding", ("whole",),
        lambda s: f.headers(s[0], HEAD) + f.data(s[0], EVENT, pad=99) + f.data(s[0], DONE, end=True, pad=0),
        "pad=99", then="kept"),
    Row("G7/4", "RFC 9113 6.10", "a head in four frames", ("whole",),
        lambda s: f.continued(s[0], HEAD, 3) + f.data(s[0], EVENT) + ended(s[0]),
        "continuation=3", then="kept"),
    Row("G7/5", "RFC 9113 6.1", "an event in frames of one byte", ("whole",),
        lambda s: f.headers(s[0], HEAD) + b"".join(f.data(s[0], bytes((b,))) for b in EVENT) + ended(s[0]),
        "one-byte-chunks", then="kept"),
    Row("G7/6", "RFC 9113 8.1", "an end without the stream's last word", ("abort",),
        lambda s: begun(s[0]) + f.data(s[0], b"", end=True), "end-after-events=1", then="kept"),
    Row("G10/1", "RFC 9113 4.2", "a frame that is too long", ("abort",),
        lambda s: begun(s[0]) + f.raw(f.DATA, 0, s[0], b"x" * (f.FRAME + 1))),
    Row("G10/2", "RFC 9113 6.1", "DATA on stream 0", ("abort",), lambda s: begun(s[0]) + f.data(0, b"x")),
    Row("G10/3", "RFC 9113 5.5", "frames of unknown types", ("whole",),
        lambda s: f.raw(0x42, 0xFF, 0, b"x") + begun(s[0]) + f.raw(0x43, 0, s[0], b"") + ended(s[0]), then="kept"),
    Row("G10/4", "RFC 9113 8.1.1", "one malformed head of two answers", ("502", "whole"),
        lambda s: f.headers(s[0], (*f.OK, (b"X-A", b"b")), end=True) + whole(s[1]), then="kept"),
    Row("G10/5", "RFC 9113 8.1.1", "a body that is longer than its content-length", ("abort", "whole"),
        lambda s: f.headers(s[0], (*HEAD, (b"content-length", b"1"))) + f.data(s[0], EVENT, end=True) + whole(s[1]),
        then="kept"),
    Row("G12/1", "RFC 9113 3.3", "HTTP/1.1 400 to the preface", ("h1",), face={"preface": "400"}),
    Row("G12/2", "RFC 9113 3.3", "no word to the preface", ("h1",), face={"preface": "silent"}),
    Row("G12/3", "RFC 9113 3.3", "the end of the connection for the preface", ("h1",), face={"preface": "close"}),
    Row("G12/4", "RFC 9113 3.3", "a reset for the preface", ("h1",), face={"preface": "reset"}),
)  # fmt: skip
