"""Reading a form costs about the same for each byte, whatever the bytes are: nobody buys the gateway's time cheaply."""

from __future__ import annotations

import random
import time

import pytest

from fastgw.protocol.multipart import ModelField

pytestmark = [pytest.mark.once, pytest.mark.quiet]

PARTS = 128
READ_BYTES = 65536
FILE = b'Content-Disposition: form-data; name="file"; filename="a.wav"'
BOUNDARIES = (b"b", b"----WebKitFormBoundary7MA4YWxkTrZu0gW", b"-" * 70, b"a" * 70, b"ab" * 35, b"-" * 35 + b"a" * 35)


def form(boundary: bytes, *parts: tuple[bytes, bytes]) -> bytes:
    body = b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, head, content) for head, content in parts)
    return body + b"--%b--\r\n" % boundary


def cost_s(boundary: bytes, body: bytes, rounds: int = 7) -> float:
    """Seconds of CPU for a body, in reads of 64 KiB: the least of a few rounds, which is what the code takes."""
    pieces = [body[at : at + READ_BYTES] for at in range(0, len(body), READ_BYTES)]
    took = []
    for _ in range(rounds):
        started = time.thread_time()
        reader = ModelField(b"multipart/form-data; boundary=" + boundary, PARTS)
        for piece in pieces:
            reader.feed(piece)
        reader.finish(needed=False)
        took.append(time.thread_time() - started)
    return min(took)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_content_that_nearly_is_the_boundary(boundary: bytes) -> None:
    delimiter = b"--" + boundary
    size = 1 << 20
    content = random.Random(1).randbytes(size).replace(delimiter, b"")
    plain = cost_s(boundary, form(boundary, (FILE, content)))
    middle = len(delimiter) // 2
    fills = (
        delimiter[:-1] + b"!", b"!" + delimiter[1:], delimiter[:middle] + b"!" + delimiter[middle:], b"\r\n" + delimiter[:-1],
        b"\r\n", b"\r\n--", b"-", delimiter[-1:],
    )  # fmt: skip
    for fill in fills:
        content = (fill * (size // len(fill) + 1))[:size]
        if delimiter not in content:
            assert cost_s(boundary, form(boundary, (FILE, content))) <= 10 * plain, fill


def test_small_parts() -> None:
    boundary = BOUNDARIES[1]
    plain = cost_s(boundary, form(boundary, *[(FILE, b"RIFF")] * PARTS))
    quoted = b'Content-Disposition: form-data; name="x"; filename="%b"'
    for head in (
        b'Content-Disposition: form-data; name="x"', FILE + b"".join(b"\r\nX-%d: b" % n for n in range(7)),
        FILE + b"\r\nX: " + b"a" * 3900, quoted % (b";" * 3900), quoted % ("\u00e9".encode() * 1900), quoted % (b"-" * 3900),
        b"Content-Disposition: form-data; " + b" " * 3900 + b'name="x"', FILE + b"\r\nContent-Type: a/b; " + b";" * 3900,
    ):  # fmt: skip
        assert cost_s(boundary, form(boundary, *[(head, b"")] * PARTS)) <= 10 * plain, head[:80]


def test_a_hundred_megabytes() -> None:
    boundary = BOUNDARIES[1]
    assert cost_s(boundary, form(boundary, (FILE, random.Random(1).randbytes(100 << 20))), rounds=3) < 0.2


@pytest.mark.parametrize("hostile", [b"; a=" * 8000, b" " * 32000, b'; boundary="' + b"\\" * 32000, b";" * 32000, b";a" * 8000])
def test_a_hostile_content_type(hostile: bytes) -> None:
    """CVE-2024-24762 and its like: quadratic time, and worse, in the parameters."""
    started = time.thread_time()
    with pytest.raises(Exception, match="invalid_multipart"):
        ModelField(b"multipart/form-data" + hostile, PARTS)
    assert time.thread_time() - started < 0.01
