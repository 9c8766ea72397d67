"""The inputs of group A (HTTP/1.1 framing and smuggling), row by row, as bytes.

Owns: the bytes and which answers are right for them; who sends them, and how split, is the tests' business. Invariant:
each ``Case`` is one request that must be refused, complete enough to be refused for what its row says.
"""

from __future__ import annotations

from dataclasses import dataclass

LINE = b"POST /v1/chat/completions HTTP/1.1"
JSON = b'{"model":"m","messages":[]}'
CONTROLS = [code for code in range(32) if code not in (9, 10, 13)] + [127]


@dataclass(frozen=True, slots=True)
class Case:
    """``data`` must be answered with one of ``statuses``, then the connection ends, and no engine sees anything."""

    row: str
    name: str
    data: bytes
    statuses: tuple[int, ...] = (400,)

    def __str__(self) -> str:
        return f"{self.row}-{self.name}"


def post(*fields: bytes, line: bytes = LINE, host: bytes = b"Host: localhost\r\n", body: bytes = b"hello") -> bytes:
    """A request with these field lines; its body is there whether or not a field announces it."""
    return line + b"\r\n" + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


def chunked(body: bytes, line: bytes = LINE, media: bytes = b"application/json") -> bytes:
    """A request whose chunked body is, on the wire, exactly ``body``."""
    return post(b"Content-Type: " + media, b"Transfer-Encoding: chunked", line=line, body=body)


def upload(body: bytes) -> bytes:
    """The same on a path whose body is passed on while it arrives."""
    return chunked(body, b"POST /v1/files HTTP/1.1", b"application/octet-stream")


def _named(row: str, inputs: dict[str, bytes], statuses: tuple[int, ...] = (400,)) -> list[Case]:
    return [Case(row, name, data, statuses) for name, data in inputs.items()]


def _text(value: bytes) -> str:
    return ascii(value.decode("latin-1"))[1:-1][:40] or "nothing"


def _valued(row: str, prefix: bytes, values: list[bytes], statuses: tuple[int, ...] = (400,)) -> list[Case]:
    return [Case(row, f"{prefix.decode()}{_text(value)}", post(prefix + value), statuses) for value in values]


A1 = [
    Case("A1", f"{coding.decode()}/{length.decode()}/{order}", post(*fields[::step]), (400, 501))
    for coding in (b"chunked", b"Chunked", b"identity", b"gzip, chunked")
    for length in (b"0", b"5", b"00")
    for order, step in (("length first", 1), ("coding first", -1))
    for fields in [(b"Content-Length: " + length, b"Transfer-Encoding: " + coding)]
] + _named(
    "A1",
    {
        "whole chunked body, length of its first part": post(
            b"Content-Length: 4", b"Transfer-Encoding: chunked", body=b"5c\r\nGPOST / HTTP/1.1\r\n\r\n0\r\n\r\n"
        ),
        "empty chunked body, longer length": post(
            b"Transfer-Encoding: chunked", b"Content-Length: 40", body=b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: x\r\n\r\n"
        ),
        "with fields between": post(b"content-length:5", b"Accept: */*", b"X: y", b"TRANSFER-ENCODING:chunked"),
    },
)

A2 = _named(
    "A2",
    {
        "5 and 6": post(b"Content-Length: 5", b"Content-Length: 6"),
        "5 and 5": post(b"Content-Length: 5", b"Content-Length: 5"),
        "0 and 5": post(b"Content-Length: 0", b"Content-Length: 5"),
        "apart, other case": post(b"content-length: 5", b"Accept: a", b"CONTENT-LENGTH: 5"),
        "5 and empty": post(b"Content-Length: 5", b"Content-Length:"),
        "three": post(b"Content-Length: 5", b"Content-Length: 5", b"Content-Length: 5"),
    },
) + _valued("A2", b"Content-Length: ", [b"5, 6", b"5, 5", b"5,5", b"5,", b",5", b"5 5"])

A3 = _valued(
    "A3",
    b"Content-Length: ",
    [b"+5", b"-5", b"0x5", b"5_0", b"1e1", b"", b" ", b"\t", b"%d" % 2**63, b"%d" % 2**64, b"5.0", b"five", b'"5"', b"5;q=1",
     b"\xb2", b"\xd9\xa5", b"9" * 40, b"0" * 30, b"-0", b"+0", b"5\x0b"],
)  # fmt: skip

A5 = _valued(
    "A5",
    b"Transfer-Encoding: ",
    [b"gzip", b"identity", b"xchunked", b"chunkedx", b"chunked, gzip", b"chunked, chunked", b",chunked", b"chunked,",
    b'"chunked"',
     b"gzip, chunked", b"", b"chunked;q=1", b"chunk ed", b"\xa0chunked", b"chunked\x85", b"deflate", b"x-chunked",
     b"'chunked'"],
    (400, 501),
) + _named(
    "A5",
    {
        "chunked twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        "gzip then chunked": post(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"),
        "chunked then identity": post(b"Transfer-Encoding: chunked", b"Accept: a", b"transfer-encoding: identity"),
        "chunked then empty": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding:"),
    },
    (400, 501),
)  # fmt: skip

A7 = [
    Case("A7", f"{coding.decode()}{more.decode()}", post(b"Transfer-Encoding: " + coding, *extra, line=LINE[:-1] + b"0"))
    for coding in (b"chunked", b"gzip", b"identity", b"Chunked")
    for more, extra in ((b"", ()), (b" with keep-alive", (b"Connection: keep-alive",)))
]

# What stands where a chunk's size line should: each with and without an accepted chunk before it.
A8_SIZES = [
    b"0x5", b"+5", b"-1", b"5_0", b" 5", b"5 ", b"", b"\t5", b"5\t", b"00000000000000005", b"10000000000000001",
    b"8000000000000000",
    b"ffffffffffffffff", b"fffffffffffffffff", b"g", b"5g", b"0x0", b"-0", b"5,5", b"5 ;a=b", b"5;\x00", b"5;a=\x7f", b"\xb25",
    b"5;" + b"e" * 300,
]  # fmt: skip
A8 = [
    Case("A8", f"{where}{_text(size)}", chunked(before + size + b"\r\nhello\r\n0\r\n\r\n"))
    for size in A8_SIZES
    for where, before in (("first ", b""), ("second ", b"5\r\nhello\r\n"))
]

A9_ENDS = {
    "data without CRLF": b"5\r\nhelloX",
    "data, the next size at once": b"5\r\nhello0\r\n\r\n",
    "CR X": b"5\r\nhello\rX0\r\n\r\n",
    "LF X": b"5\r\nhello\nX0\r\n\r\n",
    "LF alone": b"5\r\nhello\n0\r\n\r\n",
    "CR alone": b"5\r\nhello\r0\r\n\r\n",
    "CR CR LF": b"5\r\nhello\r\r\n0\r\n\r\n",
    "extra CRLF before the last chunk": b"5\r\nhello\r\n\r\n0\r\n\r\n",
    "size line ends in LF": b"5\nhello\r\n0\r\n\r\n",
    "size line ends in CR": b"5\rhello\r\n0\r\n\r\n",
    "size line ends in CR CR LF": b"5\r\r\nhello\r\n0\r\n\r\n",
    "last chunk ends in LF": b"5\r\nhello\r\n0\n\r\n",
    "extension ends in LF": b"5;a=b\nhello\r\n0\r\n\r\n",
    "a quote in an extension that never ends": b'5;a="x\r\nhello\r\n0\r\n\r\n',
    "data shorter than its size": b"6\r\nhello\r\n0\r\n\r\n",
    "data longer than its size": b"4\r\nhello\r\n0\r\n\r\n",
    "trailers end in LF": b"0\r\nX-A: b\n\r\n",
    "trailers end in LF LF": b"0\r\nX-A: b\r\n\n",
    "trailer without a colon": b"0\r\nnothing\r\n\r\n",
    "trailer with a space before the colon": b"0\r\nX-A : b\r\n\r\n",
    "folded trailer": b"0\r\nX-A: b\r\n c\r\n\r\n",
    "trailer Content-Length": b"0\r\nContent-Length: 5\r\n\r\n",
    "trailer Transfer-Encoding": b"0\r\ntransfer-encoding: chunked\r\n\r\n",
    "trailer Authorization": b"0\r\nAuthorization: Bearer x\r\n\r\n",
    "trailer twin of Host": b"0\r\nx-a: b\r\nHOST: other\r\n\r\n",
    "trailers without end": b"0\r\n" + b"x-a: " + b"b" * 9000,
}
A9 = [Case("A9", name, chunked(body)) for name, body in A9_ENDS.items()]

A12 = _named(
    "A12",
    {
        "in a name": post(b"X\r-A: b"),
        "after a name": post(b"X-A\r: b"),
        "in a value": post(b"X-A: b\rc"),
        "at a value's end": post(b"X-A: b\r\r\nX-C: d"),
        "hiding a field": post(b"X-A: b\rTransfer-Encoding: chunked"),
        "between lines": b"GET / HTTP/1.1\rHost: localhost\r\n\r\n",
        "twice between lines": b"GET / HTTP/1.1\r\rHost: localhost\r\n\r\n",
        "in the target": b"GET /\rx HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "CR LF CR X ends the head": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\rX\r\n\r\n",
        "CR LF CR CR LF": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\r\n\r\n",
        "before the request": b"\rGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    },
)

A13 = _named(
    "A13",
    {
        "request line": b"GET /healthz HTTP/1.1\nHost: localhost\r\n\r\n",
        "field line": post(b"X-A: b\nX-C: d"),
        "last field line": b"GET /healthz HTTP/1.1\r\nHost: localhost\n\r\n",
        "last line": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\n",
        "everywhere": b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
        "before the request": b"\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "after an empty line": b"\r\n\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "hiding a length": post(b"X-A: b\nContent-Length: 5"),
        "in a name": post(b"X\n-A: b"),
    },
)

A14 = [
    Case("A14", f"{place} {code:#04x}", data)
    for code in CONTROLS
    for c in [bytes([code])]
    for place, data in {
        "value": post(b"X-A: b" + c + b"c"),
        "name": post(b"X" + c + b"A: b"),
        "target": post(line=b"GET /healthz" + c + b" HTTP/1.1"),
    }.items()
] + _named(
    "A14",
    {
        "NUL ends a value": post(b"X-A: b\0"),
        "NUL in the key": post(b"Authorization: Bearer k\0ey"),
        "NUL in Host": post(host=b"Host: gate\0way\r\n"),
        "NUL in the method": post(line=b"GE\0T / HTTP/1.1"),
        "DEL in the query": post(line=b"GET /healthz?a=\x7f HTTP/1.1"),
        "vertical tab before Content-Length's value": post(b"Content-Length:\x0b5"),
        "form feed after chunked": post(b"Transfer-Encoding: chunked\x0c"),
    },
)

A15 = [
    Case("A15", f"{_text(line)}/{where}", post(*fields, host=host))
    for line in (
        b"Content-Length : 5",
        b"Content-Length\t: 5",
        b"Transfer-Encoding : chunked",
        b"X-A : b",
        b" X-A: b",
        b"\tX-A: b",
    )
    for where, fields, host in (
        ("after Host", (line,), b"Host: localhost\r\n"),
        ("first", (b"Host: localhost",), line + b"\r\n"),
    )
]

A16 = [
    Case("A16", f"{_text(fold)} {name}", data)
    for fold in (b" ", b"\t", b"  ", b" \t ")
    for name, data in {
        "in a value": post(b"X-A: b\r\n" + fold + b"c"),
        "before a coding": post(b"Transfer-Encoding:\r\n" + fold + b"chunked"),
        "hiding a length": post(b"X-A: b\r\n" + fold + b"Content-Length: 5"),
        "empty": post(b"X-A: b\r\n" + fold),
    }.items()
]

A17 = [
    Case("A17", _text(line), post(line))
    for line in (
        b": b", b":", b"a b: c", b"nocolon", b"Transfer-Encoding", b"\xa0Content-Length: 5", b"Content-Length\xa0: 5",
        b"\x85X-A: b",
        b"Transfer-Encoding\x85: chunked", b"Content-Length:\xa05", b"Content-Length: 5\x85", b"Transfer-Encoding:\x85chunked",
        b"a(b: c", b'a"b: c', b"a/b: c", b"a[b: c", b"a{b: c", b"a@b: c", b"a,b: c", b"a;b: c", b"a=b: c", b"a?b: c",
        b"a\\b: c",
    )
] + [Case("A17", f"name with {code:#x}", post(bytes([code]) + b"-a: b")) for code in (0x80, 0x9F, 0xC3, 0xE9, 0xFE,
0xFF)]  # fmt: skip

A18 = _named(
    "A18",
    {
        "Content_Length": post(b"Content_Length: 5"),
        "CONTENT_LENGTH": post(b"CONTENT_LENGTH: 5"),
        "Content_Length beside a length": post(b"Content-Length: 5", b"content_length: 6"),
        "Transfer_Encoding": post(b"Transfer_Encoding: chunked"),
        "Transfer_encoding beside a length": post(b"Content-Length: 5", b"Transfer_encoding: chunked"),
    },
)

A19 = [
    Case("A19", _text(line), post(line=line, body=b""), (400, 501, 505))
    for line in (
        b"GET /healthz HTTP/2.0", b"GET /healthz HTTP/1.11", b"GET /healthz HTTP/0.9", b"GET /healthz HTTP/",
        b"GET /healthz http/1.1",
        b"GET /healthz", b"GET  /healthz HTTP/1.1", b"GET /healthz  HTTP/1.1", b"GET\t/healthz HTTP/1.1",
        b"GET /healthz\tHTTP/1.1",
        b"GET /healthz HTTP/1.1 ", b"GET /healthz HTTP/1.1 x", b"GET /healthz HTTP/1.1\t", b" GET /healthz HTTP/1.1", b"GET",
        b"GET /healthz HTTP/1", b"GET /healthz HTTP/1.", b"GET /healthz HTTP/.1", b"GET /healthz HTTP/1.2",
        b"GET /healthz HTTP/3.0",
        b"GET /healthz HTTP/1.1.1", b"GET /healthz HTTPS/1.1", b"GET /healthz HTTP 1.1", b"GET /healthz HTTP/+1.1",
        b"GET /healthz HTTP/01.1", b"GET /healthz RTSP/1.0", b"G@T /healthz HTTP/1.1", b"G\xc9T /healthz HTTP/1.1",
        b"/ HTTP/1.1",
    )
]  # fmt: skip

A20 = [
    Case("A20", _text(host), post(host=host))
    for host in (
        b"", b"Host: a\r\nHost: a\r\n", b"Host: a\r\nhost: b\r\n", b"Host: a b\r\n", b"Host: u@a\r\n", b"Host: u:p@a\r\n",
        b"Host: a,b\r\n", b"Host: a, a\r\n", b"Host: 4714::abcd:8001\r\n", b"Host:\r\n", b"Host: \r\n", b"Host: a:b\r\n",
        b"Host: a:123456\r\n", b"Host: http://a\r\n", b"Host: a/b\r\n", b"Host: [::1\r\n", b"Host: ::1]\r\n", b"Host: [zz]\r\n",
        b"Host: a?b\r\n", b"Host: a#b\r\n", b"Host: :80\r\n", b"Host: a\xe9\r\n", b'Host: "a"\r\n', b"Host: a\\b\r\n",
    )
]  # fmt: skip

A21 = [
    Case("A21", _text(target), post(line=method + b" " + target + b" HTTP/1.1", body=b""), statuses)
    for method, target, statuses in (
        (b"GET", b"*", (400,)), (b"POST", b"*", (400,)), (b"GET", b"host:80", (400,)), (b"GET", b"admin", (400,)),
        (b"GET", b"/healthz#x", (400,)), (b"GET", b"/healthz?a#b", (400,)), (b"GET", b"/health z", (400,)),
        (b"GET", b"/v1\\models", (400,)), (b"GET", b"/?a\\b", (400,)), (b"GET", b"?a", (400,)), (b"GET", b"#", (400,)),
        (b"GET", b"ftp://h/", (400,)), (b"GET", b"http://", (400,)), (b"GET", b"http:///x", (400,)), (b"GET", b"http://u@h/",
        (400,)),
        (b"GET", b"/\xe9", (400,)), (b"GET", b"**", (400,)), (b"OPTIONS", b"**", (400,)), (b"CONNECT", b"h:443", (405, 501)),
        (b"CONNECT", b"/", (405, 501)), (b"CONNECT", b"127.0.0.1:22", (405, 501)), (b"CONNECT", b"*", (405, 501)),
    )
]  # fmt: skip

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
A27 = _named(
    "A27",
    {
        "preface": PREFACE,
        "preface and SETTINGS": PREFACE + b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x64\0\4\0\1\0\0\0\2\0\0\0\0",
        "preface of a draft": b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        "TLS hello": b"\x16\3\1\0\xf8\1\0\0\xf4\3\3" + b"r" * 64,
    },
    (400, 501, 505),
)

REFUSED: list[Case] = [*A1, *A2, *A3, *A5, *A7, *A8, *A9, *A12, *A13, *A14, *A15, *A16, *A17, *A18, *A19, *A20, *A21, *A27]


@dataclass(frozen=True, slots=True)
class Good:
    """``data`` holds ``answers`` whole requests, of which ``forwarded`` go to the engine; ``last`` = the connection ends
    then."""

    name: str
    data: bytes
    answers: int = 1
    forwarded: int = 1
    last: bool = False

    def __str__(self) -> str:
        return self.name


_ID = b"X-Request-Id: fixed"
_LENGTH = b"Content-Length: 27"
_CHUNKED = b"Transfer-Encoding: chunked"
_FRAMED = b'1b;a="b"\r\n' + JSON + b"\r\n0;last\r\nX-Sum: 1\r\n\r\n"
_GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
_CHAT = post(_ID, _LENGTH, body=JSON)

GOOD = [
    Good("length", post(b"User-Agent: x/1", _ID, _LENGTH, b"Authorization: Bearer sk-1", body=JSON)),
    Good("chunks", post(_ID, _CHUNKED, body=_FRAMED)),
    Good("chunks of one byte", post(_ID, _CHUNKED, body=b"".join(b"1\r\n%c\r\n" % c for c in JSON) + b"0\r\n\r\n")),
    Good("upload by length", post(_ID, b"Content-Length: 27", line=b"POST /v1/files HTTP/1.1", body=JSON)),
    Good("upload by chunks", post(_ID, _CHUNKED, line=b"PUT /v1/files HTTP/1.1", body=_FRAMED)),
    Good("obs-text and tabs", post(b"X-Name: \xa0\xe9\tx\x85", _ID, _LENGTH, b"x-empty:", b"X-Pad:  \t y \t", body=JSON)),
    Good("empty lines before", b"\r\n\r\n" + _CHAT),
    Good("absolute form", post(_ID, _LENGTH, line=b"POST http://other:81/v1/chat/completions HTTP/1.1", body=JSON)),
    Good("query", post(_ID, _LENGTH, line=b"POST /v1/chat/completions?a=%20b&c HTTP/1.1", body=JSON)),
    Good("hop-by-hop fields", post(b"Connection: x-hop, keep-alive", b"X-Hop: 1", b"TE: trailers", _ID, _LENGTH, body=JSON)),
    Good("twins of our fields", post(b"X_Forwarded_For: 1.2.3.4", _ID, _LENGTH, b"My_Field: kept", body=JSON)),
    Good("expectation", post(b"Expect: 100-continue", _ID, _LENGTH, body=JSON)),
    Good("HTTP/1.0", post(_ID, _LENGTH, line=LINE[:-1] + b"0", host=b"", body=JSON), last=True),
    Good("HTTP/1.0 kept", post(_ID, _LENGTH, b"Connection: keep-alive", line=LINE[:-1] + b"0", body=JSON)),
    Good("close, then more", post(_ID, _LENGTH, b"Connection: close", body=JSON) + _CHAT, last=True),
    Good("two", _CHAT + post(_ID, _CHUNKED, body=_FRAMED), 2, 2),
    Good("five of all kinds", _CHAT + _GET + post(_ID, _CHUNKED, body=_FRAMED) + b"\r\n" + _GET + _CHAT, 5, 3),
    Good("OPTIONS *", b"OPTIONS * HTTP/1.1\r\nHost: a\r\nX-Request-Id: fixed\r\n\r\n", 1, 0),
]
