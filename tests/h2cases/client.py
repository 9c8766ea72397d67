"""What a server does to a client whose request is under way: the client cases of h2specd by sections, and malformed answers.

``cases(stream)``: that request's stream. It is whole, so the stream is half-closed (local) to the client.
"""

from __future__ import annotations

from typing import Final

from tests.h2cases.case import CLOSED, Case, Rows, Step, connection_error, lives, stream_error
from tests.support.h2 import frames as f

_OTHER: Final = 2  # a stream that nobody has opened; with push not wanted a server has none


def cases(stream: int = 1) -> tuple[Case, ...]:
    return (*_frames(stream), *_states(stream), *_definitions(stream), *_continuation(stream), *_messages(stream))


def _whole(s: int) -> bytes:
    return f.answer(s, b"ok")


def _stays() -> tuple[Step, ...]:
    """It has its answer, so it may go; to a client that stays, nothing has happened."""
    said, (row,) = lives()
    return said, (str(row), CLOSED)


def _case(number: str, section: str, says: str, *steps: Step) -> Case:
    return Case(f"client/{number}", f"RFC 9113 {section}", says, steps)


def _frames(s: int) -> tuple[Case, ...]:
    odd, size = connection_error("PROTOCOL_ERROR"), connection_error("FRAME_SIZE_ERROR")
    half, unknown = f.headers(s, f.OK, whole=False), f.raw(0x16, 0, 0, b"x" * 8)
    rest = f.continuation(s, f.block(((b"x-rest", b"1"),)))
    big = tuple((b"x-big-%d" % at, b"b" * 4000) for at in range(5))
    return (
        _case("1/1", "3.4", "answers", _whole(s), *_stays()),
        _case("4.1/1", "4.1", "a frame of unknown type", unknown, *lives()),
        _case("4.1/2", "4.1", "flags that mean nothing",
              f.raw(f.PING, 0x16, 0, b"flagged!"), (f"PING ack opaque={b'flagged!'.hex()}",)),
        _case("4.1/3", "4.1", "the reserved bit",
              f.raw(f.PING, 0, 1 << 31, b"reserved"), (f"PING ack opaque={b'reserved'.hex()}",)),
        _case("4.2/1", "4.2", "DATA of 2^14 octets", f.answer(s, b"x" * f.FRAME), *_stays()),
        _case("4.2/2", "4.2", "DATA longer than allowed",
              f.headers(s, f.OK) + f.raw(f.DATA, f.END_STREAM, s, b"x" * (f.FRAME + 1)),
              stream_error(s, "FRAME_SIZE_ERROR")),
        _case("4.2/3", "4.2", "HEADERS longer than allowed",
              f.headers(s, f.block((*f.OK, *big), huffman=False), end=True), size),
        _case("4.3/1", "4.3", "a header block that is none",
              f.headers(s, b"\x40\x01", end=True), connection_error("COMPRESSION_ERROR")),
        _case("4.3/2", "4.3", "PRIORITY within a header block", half + f.priority(s) + rest, odd),
        _case("4.3/3", "4.3", "HEADERS of another stream within a header block", half + f.headers(s + 2, f.OK, end=True), odd),
        _case("5.4.1/1", "5.4.1", "an invalid PING: the connection closes", f.raw(f.PING, 0, 0, b"sixsix"), (CLOSED,)),
        _case("5.4.1/2", "5.4.1", "an invalid PING: GOAWAY",
              f.raw(f.PING, 0, 0, b"sixsix"), ("GOAWAY code=FRAME_SIZE_ERROR|PROTOCOL_ERROR",)),
        _case("5.5/1", "5.5", "an extension's frame", unknown, *lives()),
        _case("5.5/2", "5.5", "an extension's frame within a header block", half + f.raw(0x16, 0, s, b"x" * 8) + rest, odd),
    )  # fmt: skip


def _states(s: int) -> tuple[Case, ...]:
    odd, late = connection_error("PROTOCOL_ERROR"), connection_error("STREAM_CLOSED")
    more = f.continuation(s, f.block(((b"x-dummy", b"1"),)))
    closed: Rows = (f"RST_STREAM {s} code=STREAM_CLOSED", *late)
    either = connection_error("STREAM_CLOSED", "PROTOCOL_ERROR")
    reset, ended = f.headers(s, f.OK) + f.rst(s), f.headers(s, f.OK, end=True)
    # After a reset of its own a server must send nothing; a client may ignore it (RFC 9113 section 5.1).
    ignored: Rows = (f"RST_STREAM {s} code=STREAM_CLOSED", *late, "PING ack")
    return (
        _case("5.1/1", "5.1", "DATA on an idle stream", f.data(_OTHER, b"test", end=True), odd),
        _case("5.1/2", "5.1", "RST_STREAM on an idle stream", f.rst(_OTHER), odd),
        _case("5.1/3", "5.1", "WINDOW_UPDATE on an idle stream", f.window(_OTHER, 100), odd),
        _case("5.1/4", "5.1", "CONTINUATION on an idle stream", f.continuation(_OTHER, f.block(f.OK)), odd),
        _case("5.1/5", "5.1", "DATA after RST_STREAM", reset + f.data(s, b"test", end=True) + f.ping(), ignored),
        _case("5.1/6", "5.1", "HEADERS after RST_STREAM", reset + f.headers(s, f.OK, end=True) + f.ping(), ignored),
        _case("5.1/7", "5.1", "CONTINUATION after RST_STREAM",
              reset + more, (f"RST_STREAM {s} code=STREAM_CLOSED|PROTOCOL_ERROR", *either)),
        _case("5.1/8", "5.1", "DATA on a closed stream", ended + f.data(s, b"test", end=True), closed),
        _case("5.1/9", "5.1", "HEADERS on a closed stream", ended + f.headers(s, f.OK, end=True), closed),
        _case("5.1/10", "5.1", "CONTINUATION on a closed stream", ended + more, either),
        _case("5.1.1/1", "5.1.1", "an answer on a stream that has no request", f.headers(101, f.OK, end=True), odd),
    )  # fmt: skip


def _definitions(s: int) -> tuple[Case, ...]:
    odd, size, flow = (connection_error(f"{name}_ERROR") for name in ("PROTOCOL", "FRAME_SIZE", "FLOW_CONTROL"))
    most = (1 << 31) - 1
    said = f.settings
    half = f.headers(s, f.OK, whole=False)
    return (
        _case("6.1/1", "6.1", "DATA on stream 0", f.data(0, b"test", end=True), odd),
        _case("6.1/2", "6.1", "DATA on a stream that is not open", f.headers(s, f.OK, end=True) + f.data(s, b"test", end=True),
              stream_error(s, "STREAM_CLOSED")),
        _case("6.1/3", "6.1", "DATA with more padding than payload",
              f.headers(s, f.OK) + f.raw(f.DATA, f.PADDED | f.END_STREAM, s, b"\x06Test"), odd),
        _case("6.2/1", "6.2", "PRIORITY after HEADERS without END_HEADERS", half + f.priority(s), odd),
        _case("6.2/2", "6.2", "HEADERS on stream 0", f.headers(0, f.OK, end=True), odd),
        _case("6.2/3", "6.2", "HEADERS with more padding than block",
              f.raw(f.HEADERS, f.PADDED | f.END_HEADERS | f.END_STREAM, s, b"\xff" + f.block(f.OK)), odd),
        _case("6.3/1", "6.3", "PRIORITY on stream 0", f.priority(0), odd),
        _case("6.3/2", "6.3", "PRIORITY of another length",
              f.raw(f.PRIORITY, 0, s, b"\x80\0\0\1"), stream_error(s, "FRAME_SIZE_ERROR")),
        _case("6.4/1", "6.4", "RST_STREAM on stream 0", f.rst(0), odd),
        _case("6.4/2", "6.4", "RST_STREAM on an idle stream", f.rst(_OTHER), odd),
        _case("6.4/3", "6.4", "RST_STREAM of another length", f.raw(f.RST_STREAM, 0, s, b"\0\0\0"), size),
        _case("6.5/1", "6.5", "an ACK of SETTINGS with a payload", f.raw(f.SETTINGS, f.ACK, 0, b"\0" * 6), size),
        _case("6.5/2", "6.5", "SETTINGS on a stream", f.raw(f.SETTINGS, 0, s, b"\0\3\0\0\0\1"), odd),
        _case("6.5/3", "6.5", "SETTINGS of another length", f.raw(f.SETTINGS, 0, 0, b"\0\3\0"), size),
        _case("6.5.2/1", "6.5.2", "INITIAL_WINDOW_SIZE of 2^31", said(INITIAL_WINDOW_SIZE=1 << 31), flow),
        _case("6.5.2/2", "6.5.2", "MAX_FRAME_SIZE below 2^14", said(MAX_FRAME_SIZE=16_383), odd),
        _case("6.5.2/3", "6.5.2", "MAX_FRAME_SIZE of 2^24", said(MAX_FRAME_SIZE=1 << 24), odd),
        _case("6.5.2/4", "6.5.2", "an unknown setting", said({0xFF: 1}), *lives()),
        _case("6.5.2/5", "6.5.2", "ENABLE_PUSH of 1, which no server may say", said(ENABLE_PUSH=1), odd),
        _case("6.5.3/1", "6.5.3", "SETTINGS that are acknowledged", said(MAX_CONCURRENT_STREAMS=100), ("SETTINGS ack",)),
        _case("6.7/1", "6.7", "PING", *lives()),
        _case("6.7/2", "6.7", "an ACK of a PING that nobody has sent, then PING",
              f.ping(b"invalid!", ack=True) + f.ping(b"valid!!!"), (f"PING ack opaque={b'valid!!!'.hex()}",)),
        _case("6.7/3", "6.7", "PING on a stream", f.raw(f.PING, 0, s, b"12345678"), odd),
        _case("6.7/4", "6.7", "PING of another length", f.raw(f.PING, 0, 0, b"123456"), size),
        _case("6.8/1", "6.8", "GOAWAY on a stream", f.raw(f.GOAWAY, 0, s, b"\0" * 8), odd),
        _case("6.9/1", "6.9", "WINDOW_UPDATE of 0", f.window(0, 0), odd),
        _case("6.9/2", "6.9", "WINDOW_UPDATE of 0 on a stream", f.window(s, 0), stream_error(s, "PROTOCOL_ERROR")),
        _case("6.9/3", "6.9", "WINDOW_UPDATE of another length", f.raw(f.WINDOW_UPDATE, 0, 0, b"\0\0\1"), size),
        _case("6.9.1/1", "6.9.1", "the connection's window above 2^31-1", f.window(0, most) * 2, flow),
        _case("6.9.1/2", "6.9.1", "a stream's window above 2^31-1", f.headers(s, f.OK) + f.window(s, most) * 2,
              stream_error(s, "FLOW_CONTROL_ERROR")),
    )  # fmt: skip


def _continuation(s: int) -> tuple[Case, ...]:
    odd = connection_error("PROTOCOL_ERROR")
    half, rest = f.headers(s, f.OK, whole=False, end=True), f.block(((b"x-rest", b"1"),))
    return (
        _case("6.10/1", "6.10", "HEADERS and two CONTINUATION",
              half + f.continuation(s, rest, whole=False) + f.continuation(s, rest),
              *_stays()),
        _case("6.10/2", "6.10", "CONTINUATION, then DATA",
              half + f.continuation(s, rest, whole=False) + f.data(s, b"test", end=True), odd),
        _case("6.10/3", "6.10", "CONTINUATION on stream 0", half + f.continuation(0, rest), odd),
        _case("6.10/4", "6.10", "CONTINUATION after END_HEADERS", f.headers(s, f.OK) + f.continuation(s, rest), odd),
        _case("6.10/5", "6.10", "CONTINUATION after the last CONTINUATION", half + f.continuation(s, rest) * 2, odd),
        _case("6.10/6", "6.10", "CONTINUATION after DATA",
              f.headers(s, f.OK) + f.data(s, b"test") + f.continuation(s, rest), odd),
    )  # fmt: skip


def _messages(s: int) -> tuple[Case, ...]:
    """Malformed answers (RFC 9113 section 8): h2specd has none of them."""
    bad = stream_error(s, "PROTOCOL_ERROR")

    def malformed(number: int, says: str, *pairs: f.Field, body: bytes = b"", trailers: tuple[f.Field, ...] = ()) -> Case:
        sent = f.headers(s, pairs, end=not (body or trailers)) + (f.data(s, body, end=not trailers) if body else b"")
        return _case(f"8/{number}", "8.1.1", says, sent + (f.headers(s, trailers, end=True) if trailers else b""), bad)

    return (
        malformed(1, "no :status", (b"x-a", b"b")),
        malformed(2, "two :status", *f.OK, *f.OK),
        malformed(3, "a :status that is no number", (b":status", b"2x0")),
        malformed(4, "a request's pseudo-header field", *f.OK, (b":path", b"/")),
        malformed(5, "a field name with capitals", *f.OK, (b"X-A", b"b")),
        malformed(6, "a field of the connection", *f.OK, (b"connection", b"close")),
        malformed(7, "transfer-encoding", *f.OK, (b"transfer-encoding", b"chunked")),
        malformed(8, "CR and LF in a value", *f.OK, (b"x-a", b"b\r\nset-cookie: c=d")),
        malformed(9, "NUL in a value", *f.OK, (b"x-a", b"b\0c")),
        malformed(10, "a blank in a name", *f.OK, (b"x a", b"b")),
        malformed(11, "an empty name", *f.OK, (b"", b"b")),
        malformed(12, "a content-length that is too small", *f.OK, (b"content-length", b"1"), body=b"test"),
        malformed(13, "a content-length that is too large", *f.OK, (b"content-length", b"9"), body=b"test"),
        malformed(14, "two content-lengths", *f.OK, (b"content-length", b"4"), (b"content-length", b"5"), body=b"test"),
        malformed(15, "a pseudo-header field in trailers", *f.OK, body=b"test", trailers=f.OK),
        malformed(16, "a pseudo-header field after others", (b"x-a", b"b"), *f.OK),
        malformed(17, "an interim answer that ends the stream", (b":status", b"103")),
        malformed(18, "101, which HTTP/2 does not have", (b":status", b"101"), body=b"test"),
        _case("8/19", "8.1", "DATA before the head", f.data(s, b"test"), bad),
        _case("8/20", "8.1", "a second head without END_STREAM", f.headers(s, f.OK) + f.headers(s, f.OK), bad),
        _case("8/21", "8.4", "PUSH_PROMISE that is not wanted", f.push_promise(s, 2), connection_error("PROTOCOL_ERROR")),
    )  # fmt: skip
