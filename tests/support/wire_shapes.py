"""Made-up heads, streams, chunks and pages: each all of one kind of line; as ``shapes``, which has the JSON."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from tests.support.ordinary import WORDS, event, stream
from tests.support.shapes import Shapes, filled, members, mixed, values

START = b"POST /v1/chat/completions HTTP/1.1\r\n"
HOST = b"Host: a\r\n"
END = b"\r\n\r\n"
MOST = 96  # fields; more are refused for that


def _lines(size: int, made: Callable[[int], bytes], first: bytes = START + HOST, count: int = MOST) -> bytes:
    """As many lines as fit; the last one is as long as is left."""
    out: list[bytes] = []
    have = len(first) + len(END)
    for at in range(count):
        line = made(at)
        if have + len(line) + 2 > size:
            break
        out.append(line)
        have += len(line) + 2
    room = size - have - 6
    if room > 0:
        out.append(b"y: " + b"k" * room)
    return first + b"\r\n".join(out) + END


def heads(size: int, turn: int = 0) -> Shapes:
    """Request heads, legal and not; new names in each ``turn``. Each ends: what never ends is a matter of time limits."""
    yield from _unusual_heads(size, random.Random(size * 1000 + turn))
    yield from _refused_heads(size)


def _unusual_heads(size: int, chance: random.Random) -> Shapes:
    """Legal, and merely unusual."""
    lines = partial(_lines, size)

    def name() -> bytes:
        return bytes(chance.choices(b"abcdefghijklmnopqrstuvwxyz0123456789", k=4))

    yield "tiny fields, all new", lines(lambda at: name() + b":" + name())
    yield "tiny fields, the same", lines(lambda at: b"a:")
    yield "empty values", lines(lambda at: b"%b: " % name())
    yield "blanks", lines(lambda at: b"a:" + b" \t" * 100)
    yield "wide values", lines(lambda at: b"a:" + b"\xff" * 200)
    yield "one long value", lines(lambda at: b"a: b", count=0)
    yield "one long name", b"".join((START, HOST, b"n" * (size - len(START) - len(HOST) - 6), b": 1", END))
    yield "long names", lines(lambda at: b"%b-%b: 1" % (b"n" * 257, name()))
    yield "long names of letters", lines(lambda at: b"%b%b: 1" % (b"N" * 40, name()))
    yield "underscores", lines(lambda at: b"a_%b: 1" % name())
    yield "forwarded again", lines(lambda at: b"X-Forwarded-For: 1.2.3.4")
    yield "ids again", lines(lambda at: b"x-request-id: a")
    yield "origins again", lines(lambda at: b"Origin: null")
    yield "keys again", lines(lambda at: b"Authorization: Bearer a")
    yield "other keys again", lines(lambda at: b"x-api-key: a")
    yield "cookies", lines(lambda at: b"Cookie: a=b")
    yield "traces again", lines(lambda at: b"traceparent: 00-x")
    yield "other traces", lines(lambda at: b"traceparent: 01-%032x-%016x-01-x" % (at + 1, at + 1), count=1)
    yield "connection again", lines(lambda at: b"Connection: keep-alive")
    yield "connection names fields", lines(lambda at: b"Connection: %b" % name())
    yield "connection full of commas", lines(lambda at: b"Connection: a" + b",a" * (size - 200), count=0)[:0] + b"".join(
        (START, HOST, b"Connection: ", filled(b",", size - 60), END))  # fmt: skip
    yield "connection full of names", b"".join((START, HOST, b"Connection: ", filled(b"a,", size - 60), b"b", END))
    yield "expects again", lines(lambda at: b"Expect: 100-continue")
    yield "expects something", lines(lambda at: b"Expect: tea", count=1)
    yield "upgrades again", lines(lambda at: b"Upgrade: h2c")
    yield "upgrade", lines(lambda at: b"Upgrade: h2c", count=1)
    yield "protocols", b"".join((START, HOST, b"Sec-WebSocket-Protocol: ", filled(b"a,", size - 70), b"b", END))
    yield "sockets again", lines(lambda at: b"Sec-WebSocket-Protocol: a")
    yield "no content type", lines(lambda at: b"Content-Type:", count=1)
    yield "trace", lines(lambda at: b"a: b", b"TRACE / HTTP/1.1\r\n" + HOST)
    yield "star", lines(lambda at: b"a: b", b"OPTIONS * HTTP/1.1\r\n" + HOST)
    yield "absolute", lines(lambda at: b"a: b", b"GET http://a/b HTTP/1.1\r\n" + HOST)
    yield "long target", b"GET /" + b"a" * (size - 40) + b" HTTP/1.1\r\n" + HOST[:-2] + END
    yield "long query", b"GET /?" + b"a" * (size - 40) + b" HTTP/1.1\r\n" + HOST[:-2] + END
    yield "long absolute target", b"GET http://" + b"a" * (size - 40) + b" HTTP/1.1\r\n" + HOST[:-2] + END
    yield "old", lines(lambda at: b"a: b", b"GET / HTTP/1.0\r\n")
    yield "many digits", lines(lambda at: b"Content-Length: 1234567890123456789", count=1)


def _refused_heads(size: int) -> Shapes:
    lines = partial(_lines, size)
    yield "nothing but letters", filled(b"A", size)
    yield "nothing but line ends", filled(b"\r\n", size)
    yield "blanks before", filled(b" ", size, b"", END)
    yield "a control at the end", lines(lambda at: b"a: b")[:-5] + b"\x00" + END
    yield "a bare CR at the end", lines(lambda at: b"a: b")[:-6] + b"\rx" + END
    yield "a bare LF at the end", lines(lambda at: b"a: b")[:-6] + b"\nx" + END
    yield "no colon at the end", lines(lambda at: b"a: b")[:-4] + b"\r\nxyz" + END
    yield "a blank before a colon", lines(lambda at: b"a: b")[:-4] + b"\r\nxyz : 1" + END
    yield "two lengths", lines(lambda at: b"a: b")[:-4] + b"\r\nContent-Length: 1\r\nContent-Length: 1" + END
    yield "lengths again", lines(lambda at: b"Content-Length: 1")
    yield "hosts again", lines(lambda at: b"Host: a")
    yield "a length and chunks", lines(lambda at: b"a: b")[:-4] + b"\r\nContent-Length: 1\r\nTransfer-Encoding: chunked" + END
    yield "codings", b"".join((START, HOST, b"Transfer-Encoding: ", filled(b"a,", size - 70), END))
    yield "a wrong host", lines(lambda at: b"a: b", START + b"Host: a b\r\n")
    yield "no host", lines(lambda at: b"a: b", START)
    yield "a framing name", lines(lambda at: b"a: b")[:-4] + b"\r\nContent_Length: 1" + END
    yield "another version", lines(lambda at: b"a: b", b"GET / HTTP/3.0\r\n" + HOST)
    yield "another method", lines(lambda at: b"a: b", b"BREW / HTTP/1.1\r\n" + HOST)
    yield "a wrong target", lines(lambda at: b"a: b", b"GET \\ HTTP/1.1\r\n" + HOST)
    yield "too many fields", filled(b"a:\r\n", size, START + HOST, b"\r\n")


def responses(size: int, turn: int = 0) -> Shapes:
    """Response heads."""
    for name, data in heads(size, turn):
        line, _, rest = data.partition(b"\r\n")
        if rest and line.startswith(b"POST"):
            yield name, b"HTTP/1.1 200 OK\r\n" + rest
    end = b"\r\n\r\n"
    start = b"HTTP/1.1 200 OK\r\n"
    for word in (b"Keep-Alive: ", b"Connection: ", b"Content-Type: "):
        yield f"{word!r} full of commas", b"".join((start, word, filled(b",", size - 60), end))
        yield f"{word!r} full of names", b"".join((start, word, filled(b"max=1,", size - 60), end))
    yield "interim", b"HTTP/1.1 103 Early Hints\r\n" + filled(b"Link: </a>\r\n", min(size, 2000), b"", b"\r\n")
    yield "long reason", filled(b"x", size, b"HTTP/1.1 200 ", end)
    yield "dates again", filled(b"Date: Fri, 20 Nov 2026 13:00:00 GMT\r\n", min(size, 6000), start, b"\r\n")


EVENTS = (
    "\n", "\r", "\r\n", "\n\r", "x\n", "x\n\n", ":\n", ":\n\n", ":\r\n\r\n", "id: 1\r\r", "data:\n", "data:\n\n", "data\n\n",
    "data: a\n", "data:a\r", "data: a\r\n", "datum\n", "event: a\n", "event: error\n\n", "event: a\ndata: {}\n\n",
    "data: {}\n\n", "data: []\n\n", "data: {x\n\n", 'data: "\n\n', 'data: {"\n\n', "data: [DONE]\n\n", "data:[DONE]\n\n",
    "data: {}\r\n\r\n", 'data: {"content":"a"}\n\n', 'data: {"content":""}\n\n', 'data: {"content":"a","text":"b"}\n\n',
    'data: {"\\u0063":1}\n\n', 'data: {"a\\"content":"b"}\n\n', 'data: {"content":"a"\ndata: }\n\n', "\ufeff\n\n",
    'data: {"usage":{"prompt_tokens":1.0},"choices":[]}\n\n', 'data: {"usage":{"prompt_tokens":1},"choices":[]}\n\n',
    'data: {"usage":{},"usage":{}}\n\n', 'data: {"response":{"usage":{"input_tokens":1e1}}}\n\n', 'data: {"a":\ndata: 1}\n\n',
    'data: {"\u00e9":"\u00e9"}\n\n', 'data: {"type":"x.delta","delta":"a"}\n\n', 'data: {"finish_reason":"stop"}\n\n',
    'data: {"timings":{}}\n\n', 'data: {"error":null,"choices":[]}\n\n', 'data: {"choices" : [ ] , "usage" : {}}\n\n',
    'data: {"choices":[{"finish_reason":"stop"}]}\n\n',
    'data: {"choices":[{"finish_reason":"stop"}]}\n\ndata: {"choices":[],"usage":{},"a":1}\n\n',
    'data: {"response":{"message":{"usage":null}},"message":{"usage":{}},"usage":null,"timings":{}}\n\n',
)  # fmt: skip
LISTED = (b'{"content":""},', b'{"finish_reason":0},', b'{"content":"a"},', b'"content",', b'"content":"a",', b'{"usage":{}},')
LINES = (
    b"x\n", b"data: {}\n", b"\n", b"\r\n", b":c\n", b"event: e\n", b'data: {"content":"a"}\n\n', b"\r", b"data\n", b"data: 1\r",
)  # fmt: skip


def events(size: int) -> Shapes:
    """Streams of events."""
    most = min(size, 60_000)  # an event
    times = max(1, size // 60_000)
    for text in EVENTS:
        yield f"all {text!r}", filled(text.encode(), size)
    yield "no text", filled(b'data: {"a":"\xff"}\n\n', size)
    yield "deep", filled(b'data: {"a":' + b"[" * 70 + b"]" * 70 + b"}\n\n", size)
    yield "unfinished", filled(b"x", size, b"data: ")
    yield "unfinished list", filled(b'{"a":[],', size, b'data: {"choices":[],"usage":[')
    yield "unfinished lines", filled(b"data: x\n", size)
    yield "quotes", filled(b'\\"', size, b'data: {"choices":[],"x":"')
    yield "choices", filled(b'"choices": [],', size, b"data: {")
    yield "errors", filled(b'"error": null,', size, b"data: {")
    yield "overlong", filled(b"x\n", size, b"data: " + b"y" * 70_000)
    for name, data in values(most, b'data: {"x":', b"}\n\n"):
        if b"\n" not in data[:-2]:
            yield name, data * times
            yield name + ", odd", data.replace(b'{"x"', b'{"\\u0078"', 1) * times
            yield name + ", wrong", data.replace(b"}\n\n", b"\n\n", 1) * times
    for name, data in members(most, b'data: {"usage":{', b"}}\n\n"):
        yield name, data * times
    for text in LISTED:
        yield f"list of {text!r}", filled(text, most, b'data: {"\\u0078":[', b"1]}\n\n") * times
    yield "many lines", (filled(b"x\n", most) + b"\n") * times
    yield "many lines of data", filled(b"data: 0,\n", most, b'data: {"a":[\n', b"data: 0]}\n\n") * times
    yield "lines of all kinds", mixed(LINES, size)
    known = b"".join(event(0, word) for word in WORDS)
    known = known.replace(b'"total_tokens"', b'"x"').replace(b',"usage":{"prompt_tokens":70,"x":70,"completion_tokens":0}', b"")
    yield "almost as before", known + filled(known[:200].partition(b"content")[0] + b'content":"a"}}],"y":1}\n\n', size)
    yield "as before, escaped", known + filled(b'data: {"content":"\\""}\n\n', size)


def chunks(size: int) -> Shapes:
    """Chunked bodies: an ordinary stream in odd chunks, and what is wrong with them."""

    def cut(sizes: tuple[int, ...], form: bytes = b"%x\r\n%b\r\n") -> bytes:
        chance = random.Random(len(sizes))
        payload = stream(size // 4 + 1)
        out, at, have = [], 0, 0
        while at < len(payload) and have < size:
            length = chance.choice(sizes)
            piece = payload[at : at + length]
            out.append(form % (len(piece), piece))
            have += len(out[-1])
            at += length
        return b"".join(out)

    yield "one byte each", cut((1,))
    yield "two bytes each", cut((2,))
    yield "a few bytes each", cut((1, 2, 3, 5))
    yield "many sizes", cut(tuple(range(1, 60)))
    yield "an extension each", cut((1,), b"%x;a\r\n%b\r\n")
    yield "another extension each", cut((1, 2), b"%x;a=\"\xff\"\r\n%b\r\n")
    yield "long extensions", cut((1,), b"%x;" + b"x" * 250 + b"\r\n%b\r\n")
    yield "many quotes", cut((1,), b"%x" + b';a="\\""' * 35 + b"\r\n%b\r\n")
    yield "long quotes", cut((1,), b"%x" + b';a="' + b"\\\\" * 120 + b'"\r\n%b\r\n')
    yield "many blanks and a quote", cut((1,), b"%x" + b"; a\t" * 60 + b';a=""\r\n%b\r\n')
    yield "blanks before a quote", cut((1,), b"%x;a" + b" " * 240 + b'=""\r\n%b\r\n')
    yield "many zeros", cut((1,), b"%016x\r\n%b\r\n")
    yield "capitals", cut((10, 11, 12), b"%X\r\n%b\r\n")
    yield "line ends", filled(b"2\r\n\r\n\r\n", size)
    yield "trailers", filled(b"a:\r\n", size, b"0\r\n", b"\r\n")
    yield "one trailer", filled(b"a", min(size, 8000), b"0\r\na: ", b"\r\n\r\n")
    yield "a wrong size at the end", cut((1,)) + b"x"


def pages(size: int) -> Shapes:
    """Pages of metrics."""
    name = b"vllm:num_requests_running"
    all_kinds = b"vllm:num_requests_running 1\nsglang:num_running_reqs 1\ntgi_queue_size 1\n"
    for unit in (name + b" 1\n", name + b'{a="b"} 1\n', name[:-1] + b"\n", b"#" + name + b" ", b"x" + name + b"\n", b"\n",
        b"vllm:", b"\nvllm:", b"tgi_queue_size\n", all_kinds, name + b" x\n", name + b'{priority="1"} 1\n', name + b"{} 1\n",
        name + b"{\n", name + b' 1 # {a="b"}\n', b"n", b"s", b"nnng", b"ie"):  # fmt: skip
        yield f"all {unit!r}", filled(unit, size)
    for unit in (b'"', b'a="b",', b", ", b" ", b'\\"', b"}", b'"}",', b"{", b",priority"):
        yield f"labels of {unit!r}", filled(unit, size, name + b"{", b"} 1")
    yield "digits", filled(b"1", size, name + b" ")
    yield "blanks", filled(b" ", size, name, b"1")


def queries(size: int) -> Shapes:
    """Queries of a WebSocket."""
    for unit in (b"%61", b"%61a", b"%C3%A9", b"%CE%90", b"%F0%90%80%80", b"%ff", b"%5c", b"%00", b"%%", b"%6", b"%%6", b"%zz",
        b"%25", b"+", b"\\", b"a", b"A", b"[", b"=", b"&", b"a&", b"a=&", b"%20", "\u0390".encode(), b"\xff"):  # fmt: skip
        yield f"a model of {unit!r}", filled(unit, size, b"model=")
        yield f"a name of {unit!r}", filled(unit, size, b"", b"=1&model=m")
    yield "a wrong escape at the end", filled(b"%61", size, b"model=", b"%6")
    yield "no text at the end", filled(b"%61", size, b"model=", b"%ff")
    long = filled(b"%61", max(3, size // 31))
    yield "as many names as there may be", b"&".join([long] * 31 + [b"model=m"])
    yield "nearly the name, many times", b"&".join([b"model%00" + long] * 31)
    yield "a semicolon at the end", filled(b"%61", size, b"model=", b";")


def blocks(size: int, turn: int = 0) -> Shapes:
    """Field blocks of HTTP/2, legal and not: of indexes, of fields for the table and for none, of strings in Huffman's code."""
    chance = random.Random(size * 1000 + turn)
    low = b"\x00\x01a\x01b"
    new = b"\x40\x01a\x7f\x11" + b"v" * 144  # (of which the table holds few)
    for shape, unit in (
        ("static fields", b"\x82"), ("long indexes", b"\xff\x00"), ("fields of the table", b"\xbe"), ("no index", b"\x80"),
        ("updates", b"\x20"), ("tiny fields", low), ("empty fields", b"\x00\x00\x00"), ("secrets", b"\x10\x01a\x01b"),
        ("tiny fields for the table", b"\x40\x01a\x01b"), ("empty fields for the table", b"\x40\x00\x00"),
        ("fields that drive others out", new), ("tiny packed strings", b"\x00\x81\x1f\x81\x1f"),
        ("a number without end", b"\xff" + b"\x80" * 9),
    ):  # fmt: skip
        first = b"\x40\x01a\x01b" if unit == b"\xbe" else b""
        yield shape, (first + unit * (size // len(unit)))[:size]
    for shape, string in (
        ("the shortest codes", b"\x00" * size), ("the longest codes", b"\xff\xff\xff\xf0" * (size // 4)),
        ("only the end's code", b"\xff" * size), ("any bytes", chance.randbytes(size)),
    ):  # fmt: skip
        yield shape, b"\x00\x01a" + _packed(string[: size - 8])
        some = max(8, (size - 8) // 100)
        yield f"{shape}, in many strings", (b"\x00\x01a" + _packed(string[:some])) * max(1, size // (some + 8))


def _packed(string: bytes) -> bytes:
    """A string said to be in Huffman's code."""
    left = len(string) - 127
    if left < 0:
        return bytes((0x80 | len(string),)) + string
    out = bytearray((0xFF,))
    while left >= 128:
        out.append(left & 127 | 128)
        left >>= 7
    out.append(left)
    return bytes(out) + string
