"""No input costs a reader more than in proportion to its size, and ten times an ordinary one: each reader, each shape.

``make fuzz ARGS=cost`` goes on where this ends: larger inputs, and such as nobody thought of.
"""

from __future__ import annotations

import tracemalloc

import pytest

from tests.support import ordinary, shapes
from tests.support.costs import BOUND, Named, Reader, readers, running, total

READERS = readers(running())


def name(value: object) -> str:
    return value.name if isinstance(value, Reader) else str(value)


@pytest.mark.parametrize("reader", READERS, ids=name)
def test_no_input_costs_ten_times_an_ordinary_one_or_more_than_in_proportion(reader: Reader) -> None:
    assert reader.faults(*reader.sizes[:2]) == {}


@pytest.mark.parametrize(
    ("unit", "head", "tail"),
    [
        (b"[0],", b'{"model":"m","x":[', b"1]}"),
        (b'"",', b'{"model":"m","x":[', b"1]}"),
        (b"\\n", b'{"model":"m","x":"', b'"}'),
        (b'"a":1,', b'{"model":"m",', b'"b":1}'),
        ("\u4f60".encode(), b'{"model":"m","x":"', b'\xff"}'),
        (b'{"model":"n"},', b'{"x":[', b'1],"mod\\u0065l":"m","max_tokens":5.5}'),
    ],
)
def test_ten_megabytes(unit: bytes, head: bytes, tail: bytes) -> None:
    """What a body may have at most: no dearer than ten times a chat of ten megabytes."""
    assert READERS[0].ratio([shapes.filled(unit, 10 << 20, head, tail)]) <= BOUND


@pytest.mark.parametrize("reader", [reader for reader in READERS if "byte by byte" not in reader.name], ids=name)
def test_no_input_takes_many_times_its_size(reader: Reader) -> None:
    """No object for each small token: memory in proportion to the bytes."""
    for shape, reads in reader.made_up(16384):
        reader.read(reads)
        tracemalloc.start()
        reader.read(reads)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # (And what decoders and patterns need for themselves.)
        assert peak <= reader.holds * total(reads) + 50_000, shape


def test_the_measure_tells_what_is_dear() -> None:
    """A reader that looks at its beginning again for each byte is found, and so is one that is slow for all of a kind."""

    def plain(size: int) -> list[bytes]:
        return [ordinary.chat(size)]

    def made_up(size: int) -> Named:
        return ((f"{at}", [b"x" * size if at == 7 else ordinary.chat(size)]) for at in range(11))

    def again(reads: list[bytes]) -> None:
        for at in range(0, len(reads[0]) if reads[0][:1] == b"x" else 0, 8):
            reads[0].count(b"y", 0, at)
        reads[0].translate(None, b"z")

    def slow(reads: list[bytes]) -> None:
        for _ in range(99 if reads[0][:1] == b"x" else 1):
            reads[0].translate(None, b"z")

    sizes = (1024, 8192)
    assert list(Reader("again", again, plain, made_up, sizes).faults(*sizes)) == ["7"]
    assert list(Reader("slow", slow, plain, made_up, sizes).faults(*sizes)) == ["7"]
    assert Reader("cheap", lambda reads: reads[0].count(b"y"), plain, made_up, sizes).faults(*sizes) == {}
