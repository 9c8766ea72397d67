"""Made-up forms and packed bodies, and ordinary ones of about the same size; as ``shapes``, which has the JSON.

An ordinary form is many fields as clients write them, before a file. An ordinary packed body is a chat request.
"""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable

from tests.support.ordinary import chat
from tests.support.shapes import Shapes, filled

PARTS = 128
BOUNDARY = b"----WebKitFormBoundary7MA4YWxkTrZu0gW"
FORM = b"multipart/form-data; boundary=" + BOUNDARY
FILE = b'Content-Disposition: form-data; name="file"; filename="meeting.wav"\r\nContent-Type: audio/wav'
FIELD = b'Content-Disposition: form-data; name="%b"'


def _form(size: int, part: Callable[[int], tuple[bytes, bytes]]) -> bytes:
    """As many parts as fit, and a file that fills the rest."""
    out = [b'--%b\r\n%b\r\n\r\nwhisper-1\r\n' % (BOUNDARY, FIELD % b"model")]
    have = len(out[0]) + len(FILE) + 100
    for at in range(PARTS - 2):
        head, content = part(at)
        piece = b"--%b\r\n%b\r\n\r\n%b\r\n" % (BOUNDARY, head, content)
        if have + len(piece) > size:
            break
        out.append(piece)
        have += len(piece)
    noise = random.Random(size).randbytes(max(0, size - have))
    return b"".join([*out, b"--%b\r\n%b\r\n\r\n%b\r\n--%b--\r\n" % (BOUNDARY, FILE, noise, BOUNDARY)])


def form(size: int) -> bytes:
    return _form(size, lambda at: (FIELD % b"timestamp_granularities[]", b"segment" if at % 2 else b"word"))


def forms(size: int) -> Shapes:
    long = max(64, min(3900, size // 8))
    yield "no content", _form(size, lambda at: (FIELD % b"x", b""))
    yield "all fields new", _form(size, lambda at: (FIELD % (b"f%d" % at), b"1"))
    yield "eight lines", _form(size, lambda at: (FIELD % b"x" + b"".join(b"\r\nX-%d: b" % n for n in range(7)), b""))
    yield "a long line", _form(size, lambda at: (FIELD % b"x" + b"\r\nX: " + b"a" * long, b""))
    quoted = b'Content-Disposition: form-data; name="x"; filename="%b"'
    for name, fill in (("semicolons", b";"), ("dashes", b"-"), ("letters", "\u00e9".encode()), ("blanks", b" ")):
        yield f"a file name of {name}", _form(size, lambda at, fill=fill: (quoted % (fill * (long // len(fill))), b""))
    yield "blanks", _form(size, lambda at: (b"Content-Disposition: form-data; " + b" " * long + b'name="x"', b""))
    yield "parameters", _form(size, lambda at: (FIELD % b"x" + b"\r\nContent-Type: a/b" + b"; a=b" * (long // 5), b""))
    yield "a long model", _form(size, lambda at: (FIELD % b"model", b"m" * 1000))
    yield "ends of lines", _form(size, lambda at: (FILE, b"\r\n" * (size // 4)))
    yield "nearly the boundary", _form(size, lambda at: (FILE, filled(b"\r\n--" + BOUNDARY[:-1], size // 2)))
    yield "no form", filled(b"\r\n--x", size)
    yield "no end", form(size)[:-4]
    yield "too many parts", filled(b"--%b\r\n%b\r\n\r\n\r\n" % (BOUNDARY, FIELD % b"x"), size)


def packed(size: int) -> bytes:
    """A chat request that is about ``size`` bytes when it is packed."""
    whole = chat(4 * size)
    return gzip.compress(whole[: len(whole) * size // max(1, len(gzip.compress(whole, 6)))], 6)


def packings(size: int) -> Shapes:
    chance = random.Random(size)
    yield "noise", gzip.compress(chance.randbytes(size - 40), 0)
    yield "noise, packed", gzip.compress(chance.randbytes(size - 40), 9)
    yield "a bomb", gzip.compress(bytes(1000 * size), 9)[:size]
    yield "a hundredfold", gzip.compress(chance.randbytes(size // 3) + bytes(60 * size), 9)
    yield "sixteen members", b"".join(gzip.compress(chance.randbytes(size // 16 - 30), 0) for _ in range(16))
    yield "empty members", gzip.compress(b"") * (size // 20)
    yield "empty blocks", filled(b"\x00\x00\x00\xff\xff", size, gzip.compress(b"")[:10])
    fixed = zlib.compressobj(9, zlib.DEFLATED, 31, 9, zlib.Z_FIXED)
    yield "one word, fixed codes", fixed.compress(chance.randbytes(64) * (size // 8)) + fixed.flush()
    tables = zlib.compressobj(9, wbits=31)
    pieces = [tables.compress(chance.randbytes(300)) + tables.flush(zlib.Z_FULL_FLUSH) for _ in range(size // 320)]
    yield "a table for each few bytes", b"".join(pieces) + tables.flush()
    yield "broken", b"\x1f\x8b" + chance.randbytes(size)
    yield "cut", gzip.compress(chance.randbytes(2 * size))[:size]
