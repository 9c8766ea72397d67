"""Group A of the cases, row A28: however the bytes of any A case are split, the verdict and the forwarded bytes are the same.

The machines that judge heads and bodies get every split (each single cut, byte by byte, 64 random ones); the real socket gets
every case whole, byte by byte and at random, and some cases cut at each byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re

import pytest

from fastgw.errors import GatewayError
from fastgw.protocol.body import LengthSource, Source
from fastgw.protocol.http1.framing import RequestChunks
from fastgw.protocol.http1.server import RequestReader
from tests.e2e import cases_a as a
from tests.e2e.front import TAIL, Front, front, stable
from tests.protocol.splits import cut, ways

ROWS = sorted({case.row for case in a.REFUSED}, key=lambda row: int(row[1:]))
LONG = 1000  # bytes; longer cases are cut at random only
# An upload that arrived whole has a known length, one that is still arriving has not: the one line that may differ.
_UPLOAD = re.compile(rb"(\APUT (?s:.*))(?:content-length: 27|transfer-encoding: chunked)\r\n")


def transcript(pieces: list[bytes]) -> list[object]:
    """What a connection makes of the pieces: heads and whole bodies in order, up to a refusal or the last request."""
    reader = RequestReader()
    body: Source | None = None
    payload = b""
    more = True
    found: list[object] = []
    for piece in pieces:
        data = piece
        while data:
            try:
                if body is None:
                    head = reader.feed(data)
                    if head is None:
                        break
                    found.append(head)
                    data = reader.rest
                    more = head.keep_alive
                    body = RequestChunks() if head.chunked else LengthSource(max(0, head.content_length))
                    payload = b""
                else:
                    payload += body.feed(data)
                    data = body.rest if body.done else b""
            except GatewayError as error:
                # What of a broken body had been read before depends on the reads; that it is refused does not.
                return [*found, error.kind.name, error.message]
            if body is not None and body.done:
                found.append(payload)
                body = None
                if not more:
                    return found
    return [*found, "unfinished" if body is not None or reader.partial else "idle"]


class TestA28Machines:
    """Each single cut, byte by byte and 64 random splits, with and without a request behind."""

    @pytest.mark.parametrize("row", ROWS)
    def test_A28_refused(self, row: str) -> None:
        for case in a.REFUSED:
            if case.row != row:
                continue
            expected = transcript([case.data])
            assert isinstance(expected[-1], str | None)
            assert expected[-2] in ("bad_request", "not_implemented", "version_not_supported", "method_not_allowed"), str(case)
            for data in (case.data, case.data + TAIL):
                for pieces in ways(data):
                    assert transcript(pieces) == expected, (str(case), pieces)

    @pytest.mark.parametrize("good", a.GOOD, ids=str)
    def test_A28_accepted(self, good: a.Good) -> None:
        expected = transcript([good.data])
        assert len(expected) == 2 * good.answers + (not good.last)
        assert good.last or expected[-1] == "idle"
        for pieces in ways(good.data):
            assert transcript(pieces) == expected, pieces


async def send(front: Front, pieces: list[bytes]) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """All that came back until the end, and what the engine got. The pieces are read one by one: the loop turns between."""
    before = len(front.work)
    async with await front.client() as client:
        for piece in pieces:
            with contextlib.suppress(ConnectionError):
                client.put(piece)
            await asyncio.sleep(0)
        raw, how = await client.read_until_closed()
    assert how == "fin", (how, raw)
    return stable(raw), [(_UPLOAD.sub(rb"\1framing\r\n", seen.head), seen.body) for seen in front.work[before:]]


class TestA28Sockets:
    """The same through the real gateway."""

    @pytest.mark.deadline_s(60)
    @pytest.mark.parametrize("row", ROWS)
    async def test_A28_refused(self, row: str) -> None:
        chance = random.Random(row)
        async with front() as f:
            for case in a.REFUSED:
                if case.row != row:
                    continue
                data = case.data + TAIL
                expected = await send(f, [data])
                assert expected[1] == []
                assert expected[0].startswith(tuple(b"HTTP/1.1 %d " % status for status in case.statuses))
                for pieces in self.some_ways(data, chance):
                    assert await send(f, pieces) == expected, (str(case), pieces)
            assert f.touched == []

    @pytest.mark.parametrize("good", a.GOOD, ids=str)
    async def test_A28_accepted(self, good: a.Good) -> None:
        chance = random.Random(good.name)
        # One more request that ends the connection, so that its end says that all answers are there.
        data = good.data if good.last else good.data + b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        async with front() as f:
            expected = await send(f, [data])
            assert expected[0].count(b"HTTP/1.1 2") == good.answers + (not good.last)
            assert len(expected[1]) == good.forwarded
            for pieces in self.some_ways(data, chance, 6):
                assert await send(f, pieces) == expected, pieces
            # Each answer was waited for, so all of it went over one engine connection, in order.
            assert len(f.touched) <= 1

    @pytest.mark.deadline_s(60)
    @pytest.mark.parametrize(
        "name", ["A1-with fields between", "A9-LF X", "A12-CR LF CR X ends the head", "A13-last line", "two"]
    )
    async def test_A28_cut_at_each_byte(self, name: str) -> None:
        data = (
            next(one.data for one in (*a.REFUSED, *a.GOOD) if str(one) == name) + b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"
        )
        async with front() as f:
            expected = await send(f, [data])
            for at in range(1, len(data)):
                assert await send(f, [data[:at], data[at:]]) == expected, at

    @staticmethod
    def some_ways(data: bytes, chance: random.Random, splits: int = 4) -> list[list[bytes]]:
        found = [cut(data, [chance.randrange(len(data)) for _ in range(chance.randrange(1, 9))]) for _ in range(splits)]
        if len(data) <= LONG:
            found.append([data[i : i + 1] for i in range(len(data))])
        return found
