"""Forms: what is accepted names the model that starlette (over python-multipart) and aiohttp find, once, and in any pieces.

An input is a line with the Content-Type, then the body. Most random bytes are refused, and say nothing; so besides the seeds
there is a mutator that knows lines, parts and parameters, and forms made up from scratch.
"""

from __future__ import annotations

import random
import re
from typing import Any

import aiohttp.multipart
import python_multipart.multipart
import starlette.formparsers

from fastgw.errors import GatewayError
from fastgw.protocol.multipart import ModelField
from tests.fuzz.sides import some_ways
from tests.protocol.forms import RECORDED
from tests.protocol.test_multipart import ACCEPTED, REFUSED, TYPE
from tests.support.form_readers import READERS, Reading

OTHERS = (aiohttp.multipart, python_multipart.multipart, starlette.formparsers)  # whose branches are worth finding, too

PARTS = 128
FORM = b"multipart/form-data; boundary="
NAMES = (b"model", b"model", b"model", b"file", b"prompt", b"stream", b"Model", b"model[]", b"image[]", b"_charset_", b"x")
BOUNDARIES = (b"XyZ-7f3a", b"b", b"-", b"--", b"a--", b"----WebKitFormBoundary7MA4YWxkTrZu0gW", b"a'b", b"0+1.2_3", b"a" * 70)
QUOTED_BOUNDARIES = (*BOUNDARIES, b"==1==", b"a/b", b"(a)", b"a:b", b"a?b", b"a,b", b"'a'", b"a=b", b"=", b"utf-8''x")
FILENAMES = (
    b"a.wav", b"", b"a;b", b"a;b;c", b";", b"a=b", b"a b", b"a\\b", b"C:\\a", b"\\\\a", b"/etc/a", b"a/b", b"'a'", b"%22",
    b"\xc3\xa9", b"name=model", b" name=model", b"a;", b"a'b''c", b"\\a\\\\b", b"--", b"=?utf-8?q?a?=", b"\xe2\x80\xa9", b":",
)  # fmt: skip
VALUES = (b"m", b"m", b"whisper-1", b"", b"a\r\n", b"\r\na", b"-", b"--", b"\r", b"\n", b"a\n--", b"mod\xc3\xa8le", b"a" * 257)
FIELDS = (
    b"Content-Type: text/plain", b"Content-Type: text/plain; charset=utf-8", b"Content-Type: audio/wav", b"Content-Type: a/b;c",
    b"Content-Type: text/plain;charset=\"utf-8\"", b"Content-Type: text/plain; charset=iso-8859-1", b"X-A: b", b"X-A:", b"A:  ",
    b"Content-Transfer-Encoding: binary", b"content-transfer-encoding: 8BIT", b"MIME-Version: 1.0", b"Content-Length: 1",
    b"Content-Type: text/html; charset=utf-16", b"Content-Length: 01", b"X-Content-Disposition: form-data; name=\"model\"",
    b"Content-Type: application/x-www-form-urlencoded", b"Content-Type: message/rfc822", b"Name: model", b"X: ;", b"X: :",
)  # fmt: skip
WORDS = (
    b"\r\n", b"\n", b"\r", b"--", b'"', b"\\", b'\\"', b";", b"; ", b"=", b" ", b"\t", b"\x00", b"*", b"%6d", b"\x85", b"\x0b",
    b"; name=model", b'; name="model"', b"; filename=a", b'; filename="', b"; name*=utf-8''model", b"; filename*=utf-8''a",
    b"; boundary=b", b"; boundary*=utf-8''b", b"; charset=utf-8", b"; charset=utf-16", b"Content-Disposition: ", b"form-data",
    b'Content-Disposition: form-data; name="model"', b"Content-Transfer-Encoding: base64", b"Content-Encoding: gzip", b"model",
    b"Content-Transfer-Encoding: quoted-printable", b"Content-Type: multipart/mixed; boundary=b", b"\r\n\r\n", b"--b", b"--b--",
    b"Content-Type: text/plain; charset=utf-7", b"\r\n--b\r\n", b"\r\n--b--\r\n", b" folded", b"\xff", b"=?utf-8?b?bW9kZWw=?=",
)  # fmt: skip

_TOKENS = re.compile(rb'\r\n|[0-9A-Za-z]+|"[^"\r\n]*"|--|.', re.DOTALL).findall


def seeds() -> list[bytes]:
    rows = [*(row[0] for row in ACCEPTED.values()), *(row[0] for row in REFUSED.values())]
    sent = [content_type + b"\n" + body for content_type, body in RECORDED.values()]
    forms = [made_up(random.Random(number)) for number in range(200)]
    return [*sent, *(TYPE + b"\n" + body for body in rows if len(body) < 1500), *forms]


def words() -> list[bytes]:
    return [*WORDS, *FIELDS, *(value for value in VALUES if value and len(value) < 100)]


def made_up(chance: random.Random) -> bytes:
    """A form that is right, or nearly."""
    if chance.random() < 0.5:
        boundary = chance.choice(QUOTED_BOUNDARIES)
        head = FORM + b'"' + boundary + b'"'
    else:
        boundary = chance.choice(BOUNDARIES)
        head = FORM + boundary
    if chance.random() < 0.1:
        head += chance.choice((b"; charset=utf-8", b";charset=UTF-8"))
    parts = b"".join(b"--" + boundary + b"\r\n" + _part(chance) for _ in range(chance.choice((1, 1, 2, 2, 3, 4))))
    return head + b"\n" + parts + b"--" + boundary + b"--" + chance.choice((b"\r\n", b"\r\n", b""))


def _part(chance: random.Random) -> bytes:
    value = chance.choice(VALUES)
    name = chance.choice(NAMES)
    line = b"Content-Disposition: form-data; name=" + (name if chance.random() < 0.2 else b'"' + name + b'"')
    if chance.random() < (0.05 if name == b"model" else 0.5):
        line += b'; filename="' + chance.choice(FILENAMES) + b'"'
        if chance.random() < 0.1:
            line += b"; filename*=utf-8''" + chance.choice((b"a", b"%C3%A9", b"model", b"name=model"))
    lines = [line]
    for _ in range(chance.choice((0, 0, 0, 1, 1, 2, 3))):
        lines.insert(chance.randrange(len(lines) + 1), chance.choice(FIELDS))
    if chance.random() < 0.1:
        lines.append(b"Content-Length: %d" % len(value))
    return b"\r\n".join(lines) + b"\r\n\r\n" + value + b"\r\n"


def mutated(data: bytes, chance: random.Random) -> bytes:
    """``data`` with a few of its tokens, lines or parts changed, moved or repeated; mostly to something that is accepted."""
    for _ in range(chance.choice((1, 10))):
        head, _, body = (made_up(chance) if not data or chance.random() < 0.1 else data).partition(b"\n")
        if chance.random() < 0.15:
            head = _changed(head, chance)
        else:
            body = _changed(body, chance)
        if verdict(head, [body])[0] == "ok":
            break
    return head + b"\n" + body


def _changed(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 1, 2, 3))):
        cut = chance.choice((_TOKENS, _TOKENS, _lines, _parts))
        tokens = cut(data) or [b""]
        at = chance.randrange(len(tokens))
        what = chance.randrange(6)
        if what == 0:
            tokens[at] = chance.choice(WORDS)
        elif what == 1:
            tokens.insert(at, chance.choice(WORDS))
        elif what == 2:
            tokens.insert(at, chance.choice(tokens))
        elif what == 3 and len(tokens) > 1:
            del tokens[at]
        elif what == 4:
            other = chance.randrange(len(tokens))
            tokens[at], tokens[other] = tokens[other], tokens[at]
        else:
            tokens[at] = bytes(tokens[at]).swapcase() if chance.random() < 0.3 else chance.choice(tokens)
        data = b"".join(tokens)
    return data


def _lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def _parts(data: bytes) -> list[bytes]:
    return re.split(rb"(?=\r\n--)", data)


def verdict(content_type: bytes, pieces: list[bytes]) -> tuple[Any, ...]:
    """The model, where it is and whether it streams; or the refusal."""
    try:
        reader = ModelField(content_type, PARTS)
        for piece in pieces:
            reader.feed(piece)
        reader.finish(needed=False)
    except GatewayError as error:
        assert error.kind.status in (400, 415), pieces  # noqa: PT017 - it is every input's
        return error.kind.name, error.message, error.param
    return ("ok", reader.model, reader.model_span, reader.stream, reader.edits("other"))


def check(data: bytes) -> None:
    content_type, _, body = data.partition(b"\n")
    told = None
    for pieces in some_ways(body):
        got = verdict(content_type, pieces)
        told = got if told is None else told
        assert got == told, (content_type, pieces, got, told)
    assert told is not None
    if told[0] == "ok":
        _, model, span, _, edits = told
        read_alike(content_type, body, model)
        assert (span is None) == (model is None), data
        if span is not None:
            assert body[slice(*span)].decode() == model, data
            for start, end, new in reversed(edits):
                body = body[:start] + new + body[end:]
            read_alike(content_type, body, "other" if edits else model)
            assert verdict(content_type, [body])[1] == "other" if edits else model, data


def read_alike(content_type: bytes, body: bytes, model: str | None) -> None:
    """Whoever reads it finds that model and no other, and the same fields as the others do."""
    readings: list[Reading] = []
    for name, read in READERS.items():
        reading = read(content_type, body)
        if reading.refused:
            assert refuses_rightly(name, body, reading), (content_type, body, name, reading)
            continue
        assert reading.models == (() if model is None else (model,)), (content_type, body, name, reading)
        readings.append(reading)
    names = {reading.names for reading in readings}
    assert len(names) <= 1, (content_type, body, readings)


def refuses_rightly(name: str, body: bytes, reading: Reading) -> bool:
    """A reader that refuses names no model; but for these reasons only, which are no matter of grammar."""
    if name != "aiohttp":
        return False
    text = any(word in reading.refused for word in ("UnicodeDecodeError", "LookupError"))  # a field's content in its charset
    return text or ("missing name" in reading.refused and body.count(b";") > 2)  # it splits names of files at each `;`
