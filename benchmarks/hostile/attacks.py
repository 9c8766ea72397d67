"""The attacks: what is sent, again and again, and what is held open.

Owns: the bytes. Each is something that one peer can send without breaking a rule of TCP; whether the gateway refuses it or
serves it, its price is CPU per byte sent, or memory per byte held. Sent to this machine only.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.wire.proxies import KEY

MIB: Final = 1 << 20
UPLOADS: Final = "/v1/audio/transcriptions"
FORM: Final = "multipart/form-data; boundary=b"
PART: Final = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
_AUTH: Final = f"Authorization: Bearer {KEY}\r\n"
HEAD: Final = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n" + _AUTH.encode()


@dataclass(frozen=True, slots=True)
class Attack:
    """``wire`` is one request; ``times`` of them go out in one piece (pipelining). ``answers``: how many answers come back."""

    name: str
    says: str
    wire: bytes
    times: int = 1

    @property
    def piece(self) -> bytes:
        return self.wire * self.times


@dataclass(frozen=True, slots=True)
class Hold:
    """``wire`` is sent on each of ``connections`` connections, which then stay as they are."""

    name: str
    says: str
    wire: bytes
    connections: int


def post(
    body: bytes, *fields: str, path: str = "/v1/chat/completions", kind: str = "application/json", key: bool = True
) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *fields]
    head = "\r\n".join(lines) + "\r\n" + (_AUTH if key else "") + "\r\n"
    return head.encode() + body


def chat(size: int) -> bytes:
    """An ordinary conversation of about ``size`` bytes."""
    turn = {"role": "user", "content": "The quick brown fox jumps over the lazy dog, and says so in some forty words. " * 2}
    messages = [turn] * max(1, size // (len(json.dumps(turn)) + 1))
    return json.dumps({"model": "m", "messages": messages}, separators=(",", ":")).encode()


def filled(start: bytes, unit: bytes | Callable[[int], bytes], end: bytes, size: int) -> bytes:
    """``start``, as many units as fit, and ``end``."""
    if callable(unit):
        pieces, total = [], len(start) + len(end)
        for turn in range(size):
            piece = unit(turn)
            total += len(piece)
            if total > size:
                break
            pieces.append(piece)
        return start + b"".join(pieces) + end
    return start + unit * ((size - len(start) - len(end)) // len(unit)) + end


_NOT_JSON: Final = b'{"model":"m","messages":[],"a":['


def bodies(size: int) -> list[tuple[str, bytes]]:
    """Hostile JSON of ``size`` bytes, by name."""
    return [
        ("brackets", filled(b'{"model":"m","messages":[', b"[],", b"[]]}", size)),
        ("numbers", filled(b'{"model":"m","messages":[', b"1,", b"1]}", size)),
        ("empty strings", filled(b'{"model":"m","messages":[', b'"",', b'""]}', size)),
        ("escapes", filled(b'{"model":"m","messages":["', b"\\u0041\\n", b'"]}', size)),
        ("members", filled(b'{"model":"m","messages":[],', lambda turn: b'"%x":1,' % turn, b'"z":1}', size)),
        ("repeated members", filled(b'{"model":"m","messages":[],"\\u0061b":1,', b'"a":1,', b'"a":2}', size)),
        ("members within", filled(b'{"model":"m","messages":[],"o":{', lambda turn: b'"%x":1,' % turn, b'"z":1}}', size)),
        ("deep", b'{"model":"m","messages":[],"a":' + b"[" * (size // 2) + b"]" * (size // 2) + b"}"),
        ("blanks", b'{"model":"m","messages":[]' + b" " * (size - 27) + b"}"),
        ("cut at the end", filled(_NOT_JSON, b"[],", b"[]]", size)),
        ("not UTF-8 at the end", chat(size - 100)[:-3] + b'\xff"]}'),
    ]  # fmt: skip


def form(size: int) -> bytes:
    """An upload whose model comes last."""
    sound = random.Random(5).randbytes(size - 300).replace(b"\r", b"r")
    return (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + sound
        + b'\r\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n'
    )  # fmt: skip


def attacks(large: int) -> list[Attack]:
    """All that are sent, the plain request first; ``large`` is the size of large bodies."""
    asks = b"GET /v1/models HTTP/1.1\r\nHost:a\r\n"
    fields = b"".join(b"a%d:b\r\n" % turn for turn in range(98))
    packed = "Content-Encoding: gzip"
    bomb = gzip.compress(chat(500)[:-1] + b" " * (9 * MIB) + b"}")
    dense = gzip.compress(filled(b'{"model":"m","messages":[', lambda turn: b'"%x",' % scattered(turn), b'""]}', MIB))
    found = [
        Attack("plain", "a chat request of 2 kB, with a key", post(chat(2000))),
        Attack("plain, large", f"a chat request of {large / MIB:.0f} MiB", post(chat(large))),
        Attack("no key", "pipelined, the shortest request that is refused (401)", asks + b"\r\n", 800),
        Attack("no such path", "pipelined, each path another (404)", b"", 800),
        Attack(
            "odd head", "pipelined, for the complete reader (404)", b"GET / HTTP/1.1\r\nHost:a\r\nConnection:x\r\n\r\n", 600
        ),
        Attack("many fields", "100 fields of 4 bytes (401)", asks + fields + b"\r\n", 20),
        Attack("large head", "a head of 31 kB (401)", asks + b"x:" + b"y" * 31_000 + b"\r\n\r\n", 2),
        Attack("not HTTP", "garbage, each on a new connection (400)", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        Attack("a connection", "connect, ask nothing, leave", b""),
        Attack("small chunks", "a body of 64 kB in chunks of one byte", chunked(chat(64_000))),
        Attack("gzip bomb", "blanks, a thousandth of their size", post(bomb, packed)),
        Attack("gzip, dense", "1 MiB of short strings, packed", post(dense, packed)),
        Attack("upload, model last", "4 MiB that are held until the model comes", post(form(4 * MIB), path=UPLOADS, kind=FORM)),
        Attack("parts", "a form of 100 empty parts", post(PART * 100 + b"--b--\r\n", path=UPLOADS, kind=FORM)),
    ]
    found += [Attack(f"JSON: {name}", f"{len(body) / MIB:.0f} MiB", post(body)) for name, body in bodies(large)]
    found += [Attack(f"JSON, 4 kB: {name}", "4 kB", post(body)) for name, body in bodies(4000)]
    return found


def chunked(body: bytes) -> bytes:
    """A request whose body comes in chunks of one byte."""
    framed = b"".join([b"1\r\n%c\r\n" % byte for byte in body])
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


def scattered(turn: int) -> int:
    """A number that shares little with its neighbours (Knuth's multiplicative hash)."""
    return turn * 2654435761 % 2**32


def paths(count: int) -> bytes:
    """So many requests for so many paths."""
    return b"".join(b"GET /%x HTTP/1.1\r\nHost:a\r\n\r\n" % scattered(turn) for turn in range(count))


def holds() -> list[Hold]:
    """What is held open: its price is memory."""
    body = HEAD + b"Content-Length: 1000000\r\n\r\n" + b"x" * 200_000
    trickle = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000
    waiting = post(b'{"model":"m","messages":[],"stream":true}') + post(chat(2000)) * 28
    return [
        Hold("idle connections", "connected, silent", b"", 1000),
        Hold("half heads", "the first 30 kB of a head", b"GET / HTTP/1.1\r\nHost:a\r\nx:" + b"y" * 30_000, 200),
        Hold("half bodies", "the first 200 kB of a body", body, 100),
        Hold("half bodies in chunks of one byte", "the first 10 kB of a body", trickle, 100),
        Hold("pipelined behind a stream", "60 kB of requests that wait", waiting, 100),
    ]
