"""What a client does to a server: the server cases of h2spec by their numbers, from RFC 9113 and RFC 7541.

``cases(path)``: requests are for that path. A server under test answers a GET of it with a head and a body.
"""

from __future__ import annotations

from typing import Final

from tests.h2cases.case import CLOSED, Case, Step, answered, connection_error, lives, stream_error
from tests.support.h2 import frames as f

_LONG: Final = f.FRAME


class _Ask:
    """Requests for one path, each with the fields that a case adds."""

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.get = self.head(b"GET")
        self.post = self.head(b"POST")

    def head(self, method: bytes = b"", **other: bytes | None) -> tuple[f.Field, ...]:
        """``scheme=None``: without it."""
        said = {"method": method, "scheme": b"http", "path": self.path, "authority": b"127.0.0.1"} | other
        return tuple((b":" + name.encode(), value) for name, value in said.items() if value is not None)

    def gets(self, stream: int = 1, *more: f.Field, end: bool = True) -> bytes:
        return f.headers(stream, (*self.get, *more), end=end)

    def posts(self, stream: int = 1, *more: f.Field) -> bytes:
        return f.headers(stream, (*self.post, *more))


def cases(path: bytes = b"/") -> tuple[Case, ...]:
    ask = _Ask(path)
    parts = (_generic, _hpack_forms, _hpack, _frames, _states, _definitions, _more, _messages)
    return tuple(case for part in parts for case in part(ask))


def _generic(ask: _Ask) -> tuple[Case, ...]:
    """Sections 1 to 4 of h2spec's generic part."""
    g, p = ask.gets, ask.posts
    over: tuple[Step, ...] = (g(1), *answered(1))
    return (
        Case("generic/1/1", "RFC 9113 3.4", "sends a preface and a request", over),
        Case("generic/2/1", "RFC 9113 5.1", "PRIORITY on an idle stream", (f.priority(1), *over)),
        Case("generic/2/2", "RFC 9113 5.1", "WINDOW_UPDATE on a half-closed stream", (g(1), f.window(1, 1), *answered(1))),
        Case("generic/2/3", "RFC 9113 5.1", "PRIORITY on a half-closed stream", (g(1), f.priority(1), *answered(1))),
        Case("generic/2/4", "RFC 9113 5.1", "RST_STREAM on a half-closed stream", (g(1), f.rst(1), *lives())),
        Case("generic/2/5", "RFC 9113 5.1", "PRIORITY on a closed stream", (*over, f.priority(1), *lives())),
        Case("generic/3.1/1", "RFC 9113 6.1", "one DATA", (p(), f.data(1, b"{}", end=True), *answered(1))),
        Case("generic/3.1/2", "RFC 9113 6.1", "two DATA", (p(), f.data(1, b"{"), f.data(1, b"}", end=True), *answered(1))),
        Case("generic/3.1/3", "RFC 9113 6.1", "DATA with padding", (p(), f.data(1, b"{}", end=True, pad=8), *answered(1))),
        Case("generic/3.2/1", "RFC 9113 6.2", "HEADERS", over),
        Case("generic/3.2/2", "RFC 9113 6.2", "HEADERS with padding", (f.headers(1, ask.get, end=True, pad=8), *answered(1))),
        Case("generic/3.2/3", "RFC 9113 6.2", "HEADERS with priority",
             (f.headers(1, ask.get, end=True, depends_on=0, weight=255, exclusive=True), *answered(1))),
        Case("generic/3.3/1", "RFC 9113 6.3", "PRIORITY of weight 1", (f.priority(1, weight=0), *over)),
        Case("generic/3.3/2", "RFC 9113 6.3", "PRIORITY of weight 256", (f.priority(1, weight=255), *over)),
        Case("generic/3.3/3", "RFC 9113 6.3", "PRIORITY with a dependency", (f.priority(1, 0), f.priority(3, 1), *over)),
        Case("generic/3.3/4", "RFC 9113 6.3", "exclusive PRIORITY", (f.priority(3, 1, exclusive=True), *over)),
        Case("generic/3.3/5", "RFC 9113 5.1.1", "PRIORITY of a higher idle stream, then a lower one",
             (f.priority(7, 0), *over)),
        Case("generic/3.4/1", "RFC 9113 6.4", "RST_STREAM", (p(), f.rst(1), *lives())),
        Case("generic/3.5/1", "RFC 9113 6.5", "SETTINGS", (f.settings(MAX_CONCURRENT_STREAMS=1), ("SETTINGS ack",))),
        Case("generic/3.7/1", "RFC 9113 6.7", "PING", (f.ping(b"h2spec!!"), (f"PING ack opaque={b'h2spec!!'.hex()}",))),
        Case("generic/3.8/1", "RFC 9113 6.8", "GOAWAY",
             (f.goaway(0), f.ping(b"after it"), (f"PING ack opaque={b'after it'.hex()}", CLOSED))),
        Case("generic/3.9/1", "RFC 9113 6.9", "WINDOW_UPDATE of the connection", (f.window(0, 1), *lives())),
        Case("generic/3.9/2", "RFC 9113 6.9", "WINDOW_UPDATE of a stream",
             (p(), f.window(1, 1), f.data(1, b"{}", end=True), *answered(1))),
        Case("generic/3.10/1", "RFC 9113 6.10", "one CONTINUATION", (f.continued(1, ask.get, 1, end=True), *answered(1))),
        Case("generic/3.10/2", "RFC 9113 6.10", "two CONTINUATION", (f.continued(1, ask.get, 2, end=True), *answered(1))),
        Case("generic/4/1", "RFC 9113 8.1", "GET", over),
        Case("generic/4/2", "RFC 9113 8.1", "HEAD", (f.headers(1, ask.head(b"HEAD"), end=True), *answered(1))),
        Case("generic/4/3", "RFC 9113 8.1", "POST", (p(), f.data(1, b"{}", end=True), *answered(1))),
        Case("generic/4/4", "RFC 9113 8.1", "POST with trailers",
             (p(), f.data(1, b"{}"), f.headers(1, ((b"x-trailer", b"1"),), end=True), *answered(1))),
    )  # fmt: skip


def _hpack_forms(ask: _Ask) -> tuple[Case, ...]:
    """RFC 7541 section 6: each representation of a field, `generic/5` of h2spec."""
    agent, value, name = 58, b"h2cases", b"x-test"
    forms: tuple[tuple[str, bytes], ...] = (
        ("an indexed field", b"\x90"),  # accept-encoding: gzip, deflate
        *(
            (f"a literal {how}, {what}", first(what) + coded)
            for how, bits, mark in (("with indexing", 6, 0x40), ("without indexing", 4, 0), ("never indexed", 4, 0x10))
            for first in (lambda what, bits=bits, mark=mark: f.integer(agent, bits, mark) if "indexed name" in what else b"",)
            for what, coded in (
                ("indexed name", f.string(value)),
                ("indexed name, Huffman", f.huffman(value)),
                ("new name", bytes((mark,)) + f.string(name) + f.string(value)),
                ("new name, Huffman", bytes((mark,)) + f.huffman(name) + f.huffman(value)),
            )
        ),
    )
    head = f.block(ask.get)
    cases = [
        Case(f"generic/5/{at}", "RFC 7541 6", f"a request with {what}", (f.headers(1, head + coded, end=True), *answered(1)))
        for at, (what, coded) in enumerate(forms, 1)
    ]
    smaller = f.integer(128, 5, 0x20)
    updates = (("a table size update", smaller), ("two of them", smaller + f.integer(4096, 5, 0x20)))
    for at, (what, before) in enumerate(updates, 14):
        cases.append(Case(f"generic/5/{at}", "RFC 7541 6.3", what, (f.headers(1, before + head, end=True), *answered(1))))
    return tuple(cases)


def _hpack(ask: _Ask) -> tuple[Case, ...]:
    head = f.block(ask.get)
    wrong = connection_error("COMPRESSION_ERROR")
    literal = b"\x00" + f.string(b"x-test")
    rows = (
        ("2.3.3/1", "2.3.3", "an index beyond the tables", head + f.integer(70, 7, 0x80)),
        ("2.3.3/2", "2.3.3", "a literal with an index beyond the tables", head + f.integer(70, 6, 0x40) + f.string(b"x")),
        ("4.2/1", "4.2", "a table size update at the end of the block", head + f.integer(0, 5, 0x20)),
        ("5.2/1", "5.2", "a Huffman string with more than 7 bits of padding", head + literal + f.huffman(b"test", b"\xff")),
        ("5.2/2", "5.2", "a Huffman string padded with zeros", head + literal + b"\x81\x18"),  # `a` is 00011
        ("5.2/3", "5.2", "a Huffman string with EOS in it", head + literal + f.huffman(b"", b"\xff\xff\xff\xfc")),
        ("6.1/1", "6.1", "an indexed field of index 0", head + b"\x80"),
        ("6.3/1", "6.3", "a table size update above what SETTINGS allow", f.integer(65_537, 5, 0x20) + head),
    )
    return tuple(
        Case(f"hpack/{number}", f"RFC 7541 {section}", says, (f.headers(1, coded, end=True), wrong))
        for number, section, says, coded in rows
    )


def _frames(ask: _Ask) -> tuple[Case, ...]:
    """RFC 9113 sections 3 and 4."""
    g, p = ask.gets, ask.posts
    unknown = f.raw(0x16, 0, 0, b"x" * 8)
    half = f.headers(1, ask.get, end=True, whole=False)
    rest = f.continuation(1, f.block(((b"x-rest", b"1"),)))
    big = tuple((b"x-big-%d" % at, b"b" * 4000) for at in range(5))
    opening = (("SETTINGS !ack",),)
    return (
        Case("http2/3.5/1", "RFC 9113 3.4", "its preface: the server's is SETTINGS, first of all",
             (f.PREFACE + f.settings(INITIAL_WINDOW_SIZE=65_535), *opening), begin="raw"),
        Case("http2/3.5/2", "RFC 9113 3.4", "no preface",
             (b"INVALID CONNECTION PREFACE\r\n\r\n", (CLOSED,)),
             begin="raw"),
        Case("http2/4.1/1", "RFC 9113 4.1", "a frame of unknown type", (unknown, *lives())),
        Case("http2/4.1/2", "RFC 9113 4.1", "flags that mean nothing",
             (f.raw(f.PING, 0x16, 0, b"flagged!"), ("PING ack opaque=666c616767656421",))),
        Case("http2/4.1/3", "RFC 9113 4.1", "the reserved bit",
             (f.raw(f.PING, 0, 1 << 31, b"reserved"), ("PING ack opaque=7265736572766564",))),
        Case("http2/4.2/1", "RFC 9113 4.2", "DATA of 2^14 octets", (p(), f.data(1, b"x" * _LONG, end=True), *answered(1))),
        Case("http2/4.2/2", "RFC 9113 4.2", "DATA longer than allowed",
             (p(), f.raw(f.DATA, f.END_STREAM, 1, b"x" * (_LONG + 1)), stream_error(1, "FRAME_SIZE_ERROR"))),
        Case("http2/4.2/3", "RFC 9113 4.2", "HEADERS longer than allowed",
             (f.headers(1, f.block((*ask.get, *big), huffman=False), end=True), connection_error("FRAME_SIZE_ERROR"))),
        Case("http2/4.3/1", "RFC 9113 4.3", "a header block that is none",
             (f.headers(1, b"\x40\x01", end=True), connection_error("COMPRESSION_ERROR"))),
        Case("http2/4.3/2", "RFC 9113 4.3", "PRIORITY within a header block",
             (half, f.priority(1), rest, connection_error("PROTOCOL_ERROR"))),
        Case("http2/4.3/3", "RFC 9113 4.3", "HEADERS of another stream within a header block",
             (half, g(3), connection_error("PROTOCOL_ERROR"))),
        Case("http2/5.4.1/1", "RFC 9113 5.4.1", "an invalid PING: the connection closes",
             (f.raw(f.PING, 0, 0, b"sixsix"), (CLOSED,))),
        Case("http2/5.4.1/2", "RFC 9113 5.4.1", "an invalid PING: GOAWAY",
             (f.raw(f.PING, 0, 0, b"sixsix"), ("GOAWAY code=FRAME_SIZE_ERROR|PROTOCOL_ERROR",))),
        Case("http2/5.5/1", "RFC 9113 5.5", "an extension's frame", (unknown, *lives())),
        Case("http2/5.5/2", "RFC 9113 5.5", "an extension's frame within a header block",
             (half, f.raw(0x16, 0, 1, b"x" * 8), rest, connection_error("PROTOCOL_ERROR"))),
    )  # fmt: skip


def _states(ask: _Ask) -> tuple[Case, ...]:
    """Section 5.1: what is said on streams that are idle, half-closed or closed."""
    g, p = ask.gets, ask.posts
    more = f.continuation(1, f.block(((b"x-dummy", b"1"),)))
    odd, gone = connection_error("PROTOCOL_ERROR"), stream_error(1, "STREAM_CLOSED")
    both = stream_error(1, "STREAM_CLOSED", "PROTOCOL_ERROR")
    ended, reset = (g(1), *answered(1)), (p(1), f.rst(1))
    late = connection_error("STREAM_CLOSED")
    closed: tuple[str, ...] = ("RST_STREAM 1 code=STREAM_CLOSED", *late)
    many = b"".join(p(2 * at + 1) for at in range(1200))
    full = ("RST_STREAM code=REFUSED_STREAM|PROTOCOL_ERROR", "GOAWAY code=PROTOCOL_ERROR|ENHANCE_YOUR_CALM", CLOSED)
    return (
        Case("http2/5.1/1", "RFC 9113 5.1", "DATA on an idle stream", (f.data(1, b"test", end=True), odd)),
        Case("http2/5.1/2", "RFC 9113 5.1", "RST_STREAM on an idle stream", (f.rst(1), odd)),
        Case("http2/5.1/3", "RFC 9113 5.1", "WINDOW_UPDATE on an idle stream", (f.window(1, 100), odd)),
        Case("http2/5.1/4", "RFC 9113 5.1", "CONTINUATION on an idle stream", (f.continuation(1, f.block(ask.get)), odd)),
        Case("http2/5.1/5", "RFC 9113 5.1", "DATA on a half-closed stream", (g(1) + f.data(1, b"test", end=True), gone)),
        Case("http2/5.1/6", "RFC 9113 5.1", "HEADERS on a half-closed stream", (g(1) + g(1), gone)),
        Case("http2/5.1/7", "RFC 9113 5.1", "CONTINUATION on a half-closed stream", (g(1) + more, both)),
        Case("http2/5.1/8", "RFC 9113 5.1", "DATA after RST_STREAM", (*reset, f.data(1, b"test", end=True), gone)),
        Case("http2/5.1/9", "RFC 9113 5.1", "HEADERS after RST_STREAM", (*reset, g(1), gone)),
        Case("http2/5.1/10", "RFC 9113 5.1", "CONTINUATION after RST_STREAM", (*reset, more, both)),
        Case("http2/5.1/11", "RFC 9113 5.1", "DATA on a closed stream", (*ended, f.data(1, b"test", end=True), closed)),
        Case("http2/5.1/12", "RFC 9113 5.1", "HEADERS on a closed stream", (*ended, g(1), closed)),
        Case("http2/5.1/13", "RFC 9113 5.1", "CONTINUATION on a closed stream",
             (*ended, more, connection_error("STREAM_CLOSED", "PROTOCOL_ERROR"))),
        Case("http2/5.1.1/1", "RFC 9113 5.1.1", "an even stream identifier", (g(2), odd)),
        Case("http2/5.1.1/2", "RFC 9113 5.1.1", "a smaller stream identifier",
             (g(5) + g(3), connection_error("PROTOCOL_ERROR", "STREAM_CLOSED"))),
        Case("http2/5.1.1/3", "RFC 9113 5.4.2", "HEADERS on a half-closed stream that is not the first",
             (g(5) + g(5), stream_error(5, "STREAM_CLOSED"))),
        Case("http2/5.1.2/1", "RFC 9113 5.1.2", "more streams than allowed", (many, full)),
        Case("http2/5.3.1/1", "RFC 7540 5.3.1", "HEADERS that depend on themselves",
             (f.headers(1, ask.get, end=True, depends_on=1), stream_error(1, "PROTOCOL_ERROR"))),
        Case("http2/5.3.1/2", "RFC 7540 5.3.1", "PRIORITY that depends on itself",
             (p(1), f.priority(1, 1), stream_error(1, "PROTOCOL_ERROR"))),
    )  # fmt: skip


def _definitions(ask: _Ask) -> tuple[Case, ...]:
    """Sections 6.1 to 6.8."""
    g, p = ask.gets, ask.posts
    half = f.headers(1, ask.get, end=True, whole=False)
    odd, size = connection_error("PROTOCOL_ERROR"), connection_error("FRAME_SIZE_ERROR")
    flow = connection_error("FLOW_CONTROL_ERROR")
    s = f.settings
    return (
        Case("http2/6.1/1", "RFC 9113 6.1", "DATA on stream 0", (f.data(0, b"test", end=True), odd)),
        Case("http2/6.1/2", "RFC 9113 6.1", "DATA on a stream that is not open",
             (g(1) + f.data(1, b"test", end=True), stream_error(1, "STREAM_CLOSED"))),
        Case("http2/6.1/3", "RFC 9113 6.1", "DATA with more padding than payload",
             (p(1, (b"content-length", b"4")), f.raw(f.DATA, f.PADDED | f.END_STREAM, 1, b"\x06Test"), odd)),
        Case("http2/6.2/1", "RFC 9113 6.2", "PRIORITY after HEADERS without END_HEADERS", (half, f.priority(1), odd)),
        Case("http2/6.2/2", "RFC 9113 6.2", "HEADERS of another stream after HEADERS without END_HEADERS", (half, g(3), odd)),
        Case("http2/6.2/3", "RFC 9113 6.2", "HEADERS on stream 0", (f.headers(0, ask.get, end=True), odd)),
        Case("http2/6.2/4", "RFC 9113 6.2", "HEADERS with more padding than block",
             (f.raw(f.HEADERS, f.PADDED | f.END_HEADERS | f.END_STREAM, 1, b"\xff" + f.block(ask.get)), odd)),
        Case("http2/6.3/1", "RFC 9113 6.3", "PRIORITY on stream 0", (f.priority(0), odd)),
        Case("http2/6.3/2", "RFC 9113 6.3", "PRIORITY of another length",
             (p(1), f.raw(f.PRIORITY, 0, 1, b"\x80\0\0\1"), stream_error(1, "FRAME_SIZE_ERROR"))),
        Case("http2/6.4/1", "RFC 9113 6.4", "RST_STREAM on stream 0", (f.rst(0), odd)),
        Case("http2/6.4/2", "RFC 9113 6.4", "RST_STREAM on an idle stream", (f.rst(1), odd)),
        Case("http2/6.4/3", "RFC 9113 6.4", "RST_STREAM of another length", (p(1), f.raw(f.RST_STREAM, 0, 1, b"\0\0\0"), size)),
        Case("http2/6.5/1", "RFC 9113 6.5", "an ACK of SETTINGS with a payload",
             (f.raw(f.SETTINGS, f.ACK, 0, b"\0" * 6), size)),
        Case("http2/6.5/2", "RFC 9113 6.5", "SETTINGS on a stream", (f.raw(f.SETTINGS, 0, 1, b"\0\3\0\0\0\1"), odd)),
        Case("http2/6.5/3", "RFC 9113 6.5", "SETTINGS of another length", (f.raw(f.SETTINGS, 0, 0, b"\0\3\0"), size)),
        Case("http2/6.5.2/1", "RFC 9113 6.5.2", "ENABLE_PUSH of 2", (s(ENABLE_PUSH=2), odd)),
        Case("http2/6.5.2/2", "RFC 9113 6.5.2", "INITIAL_WINDOW_SIZE of 2^31", (s(INITIAL_WINDOW_SIZE=1 << 31), flow)),
        Case("http2/6.5.2/3", "RFC 9113 6.5.2", "MAX_FRAME_SIZE below 2^14", (s(MAX_FRAME_SIZE=16_383), odd)),
        Case("http2/6.5.2/4", "RFC 9113 6.5.2", "MAX_FRAME_SIZE of 2^24", (s(MAX_FRAME_SIZE=1 << 24), odd)),
        Case("http2/6.5.2/5", "RFC 9113 6.5.2", "an unknown setting", (s({0xFF: 1}), *lives())),
        Case("http2/6.5.3/1", "RFC 9113 6.5.3", "the same setting twice: the last counts",
             (f.raw(f.SETTINGS, 0, 0, b"\0\4\0\0\0\x64\0\4\0\0\0\1"), ("SETTINGS ack",), g(1), ("DATA 1 length=1",))),
        Case("http2/6.5.3/2", "RFC 9113 6.5.3", "SETTINGS that are acknowledged", (s(ENABLE_PUSH=0), ("SETTINGS ack",))),
        Case("http2/6.7/1", "RFC 9113 6.7", "PING", lives()),
        Case("http2/6.7/2", "RFC 9113 6.7", "an ACK of a PING that nobody has sent, then PING",
             (f.ping(b"invalid!", ack=True), f.ping(b"valid!!!"), (f"PING ack opaque={b'valid!!!'.hex()}",))),
        Case("http2/6.7/3", "RFC 9113 6.7", "PING on a stream", (f.raw(f.PING, 0, 1, b"12345678"), odd)),
        Case("http2/6.7/4", "RFC 9113 6.7", "PING of another length", (f.raw(f.PING, 0, 0, b"123456"), size)),
        Case("http2/6.8/1", "RFC 9113 6.8", "GOAWAY on a stream", (f.raw(f.GOAWAY, 0, 1, b"\0" * 8), odd)),
    )  # fmt: skip


def _more(ask: _Ask) -> tuple[Case, ...]:
    """Sections 6.9 to 7."""
    g, p = ask.gets, ask.posts
    odd = connection_error("PROTOCOL_ERROR")
    most = (1 << 31) - 1
    half, rest = f.headers(1, ask.get, end=True, whole=False), f.block(((b"x-rest", b"1"),))
    s = f.settings
    return (
        Case("http2/6.9/1", "RFC 9113 6.9", "WINDOW_UPDATE of 0", (f.window(0, 0), odd)),
        Case("http2/6.9/2", "RFC 9113 6.9", "WINDOW_UPDATE of 0 on a stream",
             (p(1), f.window(1, 0), stream_error(1, "PROTOCOL_ERROR"))),
        Case("http2/6.9/3", "RFC 9113 6.9", "WINDOW_UPDATE of another length",
             (f.raw(f.WINDOW_UPDATE, 0, 0, b"\0\0\1"), connection_error("FRAME_SIZE_ERROR"))),
        Case("http2/6.9.1/1", "RFC 9113 6.9.1", "a window of 1",
             (s(INITIAL_WINDOW_SIZE=1), ("SETTINGS ack",), g(1), ("DATA 1 !end length=1",))),
        Case("http2/6.9.1/2", "RFC 9113 6.9.1", "the connection's window above 2^31-1",
             (f.window(0, most) * 2, connection_error("FLOW_CONTROL_ERROR"))),
        Case("http2/6.9.1/3", "RFC 9113 6.9.1", "a stream's window above 2^31-1",
             (p(1), f.window(1, most) * 2, stream_error(1, "FLOW_CONTROL_ERROR"))),
        Case("http2/6.9.2/1", "RFC 9113 6.9.2", "a window that SETTINGS open after the request",
             (s(INITIAL_WINDOW_SIZE=0), ("SETTINGS ack",), g(1), s(INITIAL_WINDOW_SIZE=1), ("SETTINGS ack",),
              ("DATA 1 length=1",))),
        Case("http2/6.9.2/2", "RFC 9113 6.9.2", "a window that SETTINGS make negative",
             (s(INITIAL_WINDOW_SIZE=3), ("SETTINGS ack",), g(1), ("DATA 1 length=3",), s(INITIAL_WINDOW_SIZE=2),
              ("SETTINGS ack",), f.window(1, 2), ("DATA 1 length=1",))),
        Case("http2/6.9.2/3", "RFC 9113 6.9.2", "INITIAL_WINDOW_SIZE above 2^31-1",
             (s(INITIAL_WINDOW_SIZE=1 << 31), connection_error("FLOW_CONTROL_ERROR"))),
        Case("http2/6.10/1", "RFC 9113 6.10", "HEADERS and two CONTINUATION",
             (half, f.continuation(1, rest, whole=False), f.continuation(1, rest), *answered(1))),
        Case("http2/6.10/2", "RFC 9113 6.10", "CONTINUATION, then DATA",
             (half, f.continuation(1, rest, whole=False), f.data(1, b"test", end=True), odd)),
        Case("http2/6.10/3", "RFC 9113 6.10", "CONTINUATION on stream 0", (half, f.continuation(0, rest), odd)),
        Case("http2/6.10/4", "RFC 9113 6.10", "CONTINUATION after END_HEADERS", (g(1) + f.continuation(1, rest), odd)),
        Case("http2/6.10/5", "RFC 9113 6.10", "CONTINUATION after the last CONTINUATION",
             (half + f.continuation(1, rest) * 2, odd)),
        Case("http2/6.10/6", "RFC 9113 6.10", "CONTINUATION after DATA",
             (p(1) + f.data(1, b"test") + f.continuation(1, rest), odd)),
        Case("http2/7/1", "RFC 9113 7", "GOAWAY with an unknown code",
             (f.goaway(0, 0xFF), f.ping(b"unknown!"), ("PING ack", CLOSED))),
        Case("http2/7/2", "RFC 9113 7", "RST_STREAM with an unknown code", (p(1), f.rst(1, 0xFF), *lives())),
    )  # fmt: skip


def _messages(ask: _Ask) -> tuple[Case, ...]:
    """Section 8: a malformed request is a stream error of PROTOCOL_ERROR (8.1.1)."""
    get, post = ask.get, ask.post
    bad = stream_error(1, "PROTOCOL_ERROR")
    short = (*post, (b"content-length", b"1"))

    def malformed(number: str, section: str, says: str, *pairs: f.Field, body: tuple[bytes, ...] = ()) -> Case:
        sent = b"".join(f.data(1, piece, end=at == len(body)) for at, piece in enumerate(body, 1))
        return Case(f"http2/{number}", f"RFC 9113 {section}", says, (f.headers(1, pairs, end=not body) + sent, bad))

    def without(name: bytes) -> tuple[f.Field, ...]:
        return tuple(pair for pair in get if pair[0] != name)

    def twice(name: bytes) -> tuple[f.Field, ...]:
        return tuple(pair for each in get for pair in ((each, each) if each[0] == name else (each,)))

    return (
        Case("http2/8.1/1", "RFC 9113 8.1", "a second HEADERS without END_STREAM",
             (f.headers(1, post), f.headers(1, post), bad)),
        malformed("8.1.2/1", "8.2.1", "a field name with capitals", *get, (b"X-TEST", b"ok")),
        malformed("8.1.2.1/1", "8.3", "an unknown pseudo-header field", *get, (b":test", b"ok")),
        malformed("8.1.2.1/2", "8.3", "a response's pseudo-header field", *get, (b":status", b"200")),
        Case("http2/8.1.2.1/3", "RFC 9113 8.3", "a pseudo-header field in trailers",
             (f.headers(1, post), f.data(1, b"test"), f.headers(1, ((b":method", b"200"),), end=True), bad)),
        malformed("8.1.2.1/4", "8.3", "a pseudo-header field after others", get[0], (b"x-test", b"ok"), *get[1:]),
        malformed("8.1.2.2/1", "8.2.2", "a field of the connection", *get, (b"connection", b"keep-alive")),
        malformed("8.1.2.2/2", "8.2.2", "TE with another value than trailers", *get, (b"te", b"trailers, deflate")),
        malformed("8.1.2.3/1", "8.3.1", "an empty :path", *ask.head(b"GET", path=b"")),
        malformed("8.1.2.3/2", "8.3.1", "no :method", *without(b":method")),
        malformed("8.1.2.3/3", "8.3.1", "no :scheme", *without(b":scheme")),
        malformed("8.1.2.3/4", "8.3.1", "no :path", *without(b":path")),
        malformed("8.1.2.3/5", "8.3.1", "two :method", *twice(b":method")),
        malformed("8.1.2.3/6", "8.3.1", "two :scheme", *twice(b":scheme")),
        malformed("8.1.2.3/7", "8.3.1", "two :path", *twice(b":path")),
        malformed("8.1.2.6/1", "8.1.1", "a content-length that is not the body's", *short, body=(b"test",)),
        malformed("8.1.2.6/2", "8.1.1", "a content-length that is not that of all DATA", *short, body=(b"te", b"st")),
        Case("http2/8.2/1", "RFC 9113 8.4", "PUSH_PROMISE",
             (ask.posts(1), f.push_promise(1, 2, get), connection_error("PROTOCOL_ERROR"))),
    )  # fmt: skip
