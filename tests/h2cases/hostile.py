"""Floods and abuses: CASES G8 and G9 (an engine's), H2 to H9 (a client's). What each costs grows with what is sent.

``of_client(path)``: played on a server, as the cases of ``server`` are. ``of_server(stream)``: on a client that waits on it. A
row ends with the end that a bound has to bring; ``most``: so many of its requests may be seen by an engine (the stream limit).
How much memory is held meanwhile, and that others are served, is for the test that plays them.
"""

from __future__ import annotations

from typing import Final

from tests.h2cases.case import Case, Rows, Step, connection_error, stream_error
from tests.h2cases.server import _Ask
from tests.support.h2 import frames as f

CALM: Final = connection_error("ENHANCE_YOUR_CALM", "PROTOCOL_ERROR", "COMPRESSION_ERROR", "REFUSED_STREAM", "INTERNAL_ERROR")
STREAMS: Final = 100  # what servers allow at once

_FEW, _MANY = 1000, 20_000
_MOST: Final = (1 << 31) - 1


def _odd(count: int) -> range:
    return range(1, 2 * count, 2)


def bomb(first: bytes, references: int) -> bytes:
    """An entry of 4 kB in the dynamic table, then references to it: 62 is the newest (RFC 7541 section 2.3.3)."""
    return first + b"\x40" + f.string(b"x") + f.string(b"b" * 4000) + b"\xbe" * references


def of_client(path: bytes = b"/") -> tuple[Case, ...]:
    ask = _Ask(path)
    g, p = ask.gets, ask.posts
    open_head = f.headers(1, ask.get, end=True, whole=False)
    junk = f.block(((b"x-junk", b"j" * 200),), huffman=False)
    sizes = (b"\x20" + f.integer(4096, 5, 0x20)) * 2000 + f.block(ask.get)
    bad = stream_error(1, "PROTOCOL_ERROR")

    def flood(id: str, section: str, says: str, *steps: Step, most: int = -1, first: bytes | None = None) -> Case:
        return Case(id, section, says, (*steps, CALM), most=most, first=f.settings() if first is None else first)

    return (
        flood("H2/1", "CVE-2023-44487", "a thousand requests, each reset at once",
              b"".join(g(s) + f.rst(s) for s in _odd(_FEW)), most=STREAMS),
        flood("H2/2", "CVE-2023-44487", "the same with bodies that do not end",
              b"".join(p(s) + f.rst(s) for s in _odd(_FEW)), most=STREAMS),
        flood("H2/3", "CVE-2025-8671", "a thousand requests that the server has to reset: WINDOW_UPDATE of 0",
              b"".join(p(s) + f.window(s, 0) for s in _odd(_FEW)), most=STREAMS),
        flood("H2/4", "CVE-2025-8671", "a thousand: windows above 2^31-1",
              b"".join(p(s) + f.window(s, _MOST) for s in _odd(_FEW)), most=STREAMS),
        flood("H2/5", "CVE-2025-8671", "a thousand: DATA behind the end",
              b"".join(g(s) + f.data(s, b"x") for s in _odd(_FEW)), most=STREAMS),
        flood("H2/6", "CVE-2025-8671", "a thousand: malformed heads",
              b"".join(f.headers(s, (*ask.get, (b"connection", b"x")), end=True) for s in _odd(_FEW)), most=0),
        flood("H4/1", "CVE-2024-27316", "CONTINUATION without an end",
              open_head, f.continuation(1, junk, whole=False) * 5000, most=0),
        flood("H4/2", "CVE-2024-27316", "empty CONTINUATION without an end",
              open_head, f.continuation(1, b"", whole=False) * _MANY, most=0),
        flood("H4/3", "CVE-2019-9516", "fields without names and values",
              open_head, f.continuation(1, b"\0\0\0" * 5000, whole=False) * 20, most=0),
        flood("H5/1", "CVE-2016-6581", "a header block that decodes to 32 MB",
              f.headers(1, bomb(f.block(ask.get), 8000), end=True), most=0),
        flood("H5/2", "RFC 7541 4.2", "a table that is made small and large in every request",
              b"".join(f.headers(s, sizes, end=True) for s in _odd(20)), most=STREAMS),
        flood("H6/1", "CVE-2019-9512", "PINGs", f.ping() * _MANY),
        flood("H6/2", "CVE-2019-9515", "SETTINGS", f.settings() * _MANY),
        flood("H6/3", "CVE-2019-9513", "PRIORITY", b"".join(f.priority(s, 0) for s in _odd(_MANY))),
        flood("H6/4", "CVE-2019-9518", "empty DATA", p(1), f.data(1, b"") * _MANY, most=1),
        flood("H6/5", "RFC 9113 10.5", "WINDOW_UPDATE", p(1), (f.window(0, 1) + f.window(1, 1)) * _MANY, most=1),
        flood("H6/6", "RFC 9113 10.5", "frames of unknown types", f.raw(0x42, 0, 0, b"x") * _MANY),
        flood("H6/7", "CVE-2019-9514", "frames on streams that are closed", g(1), f.rst(1), f.data(1, b"") * _MANY, most=1),
        *(
            Case(f"H9/{at}", f"RFC 9113 {section}", says, (f.headers(1, pairs, end=True), bad), most=0)
            for at, (section, says, pairs) in enumerate(fields(ask), 1)
        ),
    )  # fmt: skip


def fields(ask: _Ask) -> tuple[tuple[str, str, tuple[f.Field, ...]], ...]:
    """H9: heads that would mean something else once written as HTTP/1.1."""
    get = ask.get

    def put(name: bytes, value: bytes) -> tuple[f.Field, ...]:
        return tuple((name, value) if pair[0] == name else pair for pair in get)

    return (
        ("8.2.1", "CR and LF in a value", (*get, (b"x-a", b"b\r\nx-c: d"))),
        ("8.2.1", "LF in a value", (*get, (b"x-a", b"b\nx-c: d"))),
        ("8.2.1", "NUL in a value", (*get, (b"x-a", b"b\0c"))),
        ("8.2.1", "CR in a name", (*get, (b"x-a\r", b"b"))),
        ("8.2.1", "a colon in a name", (*get, (b"x:a", b"b"))),
        ("8.2.1", "a blank in a name", (*get, (b"x a", b"b"))),
        ("8.2.1", "an empty name", (*get, (b"", b"b"))),
        ("8.2.1", "a value that begins with a blank", (*get, (b"x-a", b" b"))),
        ("8.2.1", "a value that ends with a tab", (*get, (b"x-a", b"b\t"))),
        ("8.2.2", "transfer-encoding", (*get, (b"transfer-encoding", b"chunked"))),
        ("8.2.2", "keep-alive", (*get, (b"keep-alive", b"5"))),
        ("8.2.2", "proxy-connection", (*get, (b"proxy-connection", b"close"))),
        ("8.2.2", "upgrade", (*get, (b"upgrade", b"websocket"))),
        ("8.3.1", "a blank in :path", put(b":path", b"/a HTTP/1.1")),
        ("8.3.1", "CR and LF in :path", put(b":path", b"/a\r\nx: y")),
        ("8.3.1", "a :path that does not begin with a slash", put(b":path", b"a")),
        ("8.3.1", "a blank in :method", put(b":method", b"GET /")),
        ("8.3.1", "CR and LF in :authority", put(b":authority", b"a\r\nx: y")),
        ("8.3.1", "two :authority", (*get, (b":authority", b"other"))),
        ("8.3.1", "a host that is not :authority", (*get, (b"host", b"other"))),
        ("8.1.1", "two content-lengths", (*get, (b"content-length", b"0"), (b"content-length", b"1"))),
        ("8.1.1", "a content-length that is none", (*get, (b"content-length", b"+0"))),
        ("8.5", "CONNECT with a :path", put(b":method", b"CONNECT")),
        ("8.3", "a :protocol with another method than CONNECT (RFC 8441 4)", (*get, (b":protocol", b"websocket"))),
    )


def of_server(stream: int = 1) -> tuple[Case, ...]:
    s = stream
    open_head = f.headers(s, f.OK, whole=False)
    hint = f.headers(s, ((b":status", b"103"), (b"link", b"</a>; rel=preload")))

    def flood(id: str, section: str, says: str, *steps: Step, end: Rows = CALM) -> Case:
        return Case(id, section, says, (*steps, end))

    large = tuple((b"x-%d" % at, b"v" * 4000) for at in range(40))
    calm_or_reset = (f"RST_STREAM {s}", *CALM)
    return (
        flood("G8/1", "CVE-2024-27316", "CONTINUATION without an end", open_head,
              f.continuation(s, f.block(((b"x-junk", b"j" * 200),), huffman=False), whole=False) * 5000),
        flood("G8/2", "CVE-2024-27316", "empty CONTINUATION without an end",
              open_head, f.continuation(s, b"", whole=False) * _MANY),
        flood("G8/3", "RFC 9113 10.5.1", "a header list of 160 kB",
              f.continued(s, f.block((*f.OK, *large), huffman=False), 12), end=calm_or_reset),
        flood("G8/4", "CVE-2016-6581", "a header block that decodes to 32 MB",
              f.headers(s, bomb(f.block(f.OK), 8000)), end=calm_or_reset),
        flood("G8/5", "RFC 7541 6.3", "a table larger than allowed", f.headers(s, f.integer(1 << 20, 5, 0x20) + f.block(f.OK)),
              end=connection_error("COMPRESSION_ERROR")),
        flood("G9/1", "RFC 9110 15.2", "ten thousand 103", hint * 10_000, end=calm_or_reset),
        flood("G9/2", "CVE-2019-9512", "PINGs", f.ping() * _MANY),
        flood("G9/3", "CVE-2019-9515", "SETTINGS", f.settings() * _MANY),
        flood("G9/4", "CVE-2019-9518", "empty DATA", f.headers(s, f.OK), f.data(s, b"") * _MANY, end=calm_or_reset),
        flood("G9/5", "RFC 9113 10.5", "WINDOW_UPDATE", f.window(0, 1) * (2 * _MANY)),
        flood("G9/6", "CVE-2019-9513", "PRIORITY", f.priority(s, 0) * _MANY),
    )  # fmt: skip
