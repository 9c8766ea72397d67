"""Ids and traces of requests over real sockets: D12."""

from __future__ import annotations

import json
import re

import pytest

from fastgw.observe.logs import access_fields, as_json, as_text
from tests.e2e.identity import KEY, READERS, ask, assert_error, fields_of, guarded, posts, rss_kb, with_lines
from tests.support.client import chat, request
from tests.support.gateway import Running

GOOD_IDS = ["a", "req-1", "7f2c0d1e-6f1a-4c7b-9d55-0a6b1c2d3e4f", "x" * 128, "A.b_c:d~e+f/g=h@i-j", "req-1700000000000000000"]
BAD_IDS = {
    "empty": b"",
    "blank": b"   ",
    "129": b"x" * 129,
    "8kB": b"x" * 8192,
    "30kB": b"x" * 30_000,
    "space-inside": b"a b",
    "tab-inside": b"a\tb",
    "quote": b'a"b',
    "json": b'","level":"error","message":"forged',
    "comma": b"a, b",
    "unicode": "\N{SNOWMAN}".encode(),
    "latin-1": b"\xe9",
    "crlf-encoded": b"a%0d%0aX-Injected:%20yes",
    "crlf-escaped": b"a\\r\\nX-Injected: yes",
    "overlong-line-feed": b"a\xc0\x8ab",
    "nel": b"a\xc2\x85b",
    "line-separator": "a\N{LINE SEPARATOR}b".encode(),
    "script": b"<script>alert(1)</script>",
    "jndi": b"${jndi:ldap://x/a}",
    "format": b"%s%n",
    "semicolon": b"a;b",
}
GOOD_TRACES = [
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-may-bring",
]
BAD_TRACES = [
    "garbage",
    "",
    "00",
    "00-00000000000000000000000000000000-b7ad6b7169203331-01",
    "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
    "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
    "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "00-' OR '1'='1-b7ad6b7169203331-01",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01,00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "x" * 9000,
    "\xe9\xe9",
]


def one_line_each(gw: Running) -> None:
    """Each record is one line of JSON, and one of plain text without a control character."""
    for record in gw.raw_records:
        line = as_json(access_fields(record))
        assert line.count(b"\n") == 1
        assert json.loads(line)["message"] == "request"
        assert as_text(access_fields(record)).decode()[:-1].isprintable()


class TestD12:
    """A request id that is not fit to be repeated is replaced by ours, everywhere; a broken traceparent is not passed on."""

    @pytest.mark.parametrize("given", GOOD_IDS)
    async def test_D12_a_good_id_goes_everywhere(self, given: str) -> None:
        async with guarded() as (gw, sim, client):
            answer = await ask(client, with_lines(chat("m", key=KEY), f"X-Request-ID: {given}"))
            assert answer.header_all("x-request-id") == [given]
            assert fields_of(posts(sim)[0])[b"x-request-id"] == [given.encode()]
            assert gw.records[0]["request_id"] == given.encode()
            answer = await ask(client, with_lines(chat("nobody", key=KEY), f"x-request-id: {given}"))  # refusals too
            assert (answer.status, answer.header("x-request-id")) == (404, given)

    @pytest.mark.parametrize("reader", READERS)
    @pytest.mark.parametrize("name", BAD_IDS)
    async def test_D12_a_bad_id_is_replaced(self, name: str, reader: str) -> None:
        async with guarded() as (gw, sim, client):
            line = b"X-Request-ID: " + BAD_IDS[name] + b"\r\n"
            data = with_lines(chat("m", key=KEY), *READERS[reader]).replace(b"\r\n", b"\r\n" + line, 1)
            ids = []
            for turn in range(2):
                answer = await ask(client, data)
                assert answer.status == 200
                (own,) = answer.header_all("x-request-id")
                assert re.fullmatch(r"[0-9a-f]{16}", own)
                assert fields_of(posts(sim)[turn])[b"x-request-id"] == [own.encode()]
                assert gw.records[turn]["request_id"] == own.encode()
                assert b"njected" not in answer.raw_head
                ids.append(own)
            assert ids[0] != ids[1]
            one_line_each(gw)

    async def test_D12_two_ids_are_nobodys(self) -> None:
        async with guarded() as (_, sim, client):
            answer = await ask(client, with_lines(chat("m", key=KEY), "X-Request-ID: one", "X-Request-ID: two"))
            own = answer.header("x-request-id")
            assert own not in ("one", "two", None)
            assert fields_of(posts(sim)[0])[b"x-request-id"] == [str(own).encode()]

    @pytest.mark.parametrize("size", [40_000, 1_000_000])
    async def test_D12_an_id_over_the_head_limit(self, size: int) -> None:
        async with guarded() as (gw, sim, client):
            with_id = chat("m", key=KEY, headers=[("X-Request-ID", "x" * size)])
            answer = await ask(client, with_id)
            assert_error(answer, 431, "invalid_request_error")
            assert re.fullmatch(r"[0-9a-f]{16}", answer.header("x-request-id") or "")
            assert posts(sim) == []
            await gw.until("one record", lambda: len(gw.records) == 1)
            one_line_each(gw)

    @pytest.mark.parametrize("octets", [b"a\rb", b"a\nb", b"a\0b", b"a\r\n b", b"a\x1b[31m"])
    async def test_D12_line_ends_and_controls(self, octets: bytes) -> None:
        async with guarded() as (gw, sim, client):
            data = chat("m", key=KEY).replace(b"\r\n", b"\r\nX-Request-ID: " + octets + b"\r\n", 1)
            answer = await ask(client, data)
            assert_error(answer, 400, "invalid_request_error")
            assert re.fullmatch(r"[0-9a-f]{16}", answer.header("x-request-id") or "")
            assert posts(sim) == []
            one_line_each(gw)

    @pytest.mark.parametrize("reader", READERS)
    @pytest.mark.parametrize("trace", GOOD_TRACES)
    async def test_D12_a_good_traceparent_is_passed_on(self, trace: str, reader: str) -> None:
        async with guarded() as (_, sim, client):
            lines = (f"traceparent: {trace}", "tracestate: a=1,b=2", *READERS[reader])
            assert (await ask(client, with_lines(chat("m", key=KEY), *lines))).status == 200
            assert fields_of(posts(sim)[0])[b"traceparent"] == [trace.encode()]
            assert fields_of(posts(sim)[0])[b"tracestate"] == [b"a=1,b=2"]

    @pytest.mark.parametrize("reader", READERS)
    @pytest.mark.parametrize("trace", BAD_TRACES, ids=range(len(BAD_TRACES)))
    async def test_D12_a_bad_traceparent_is_not(self, trace: str, reader: str) -> None:
        async with guarded() as (gw, sim, client):
            lines = (f"TraceParent: {trace}", *READERS[reader])
            assert (await ask(client, with_lines(chat("m", key=KEY), *lines))).status == 200
            assert b"traceparent" not in fields_of(posts(sim)[0])
            one_line_each(gw)

    async def test_D12_two_traceparents_are_none(self) -> None:
        async with guarded() as (_, sim, client):
            assert (
                await ask(client, with_lines(chat("m", key=KEY), *(f"traceparent: {one}" for one in GOOD_TRACES[:2])))
            ).status == 200
            assert b"traceparent" not in fields_of(posts(sim)[0])

    async def test_D12_a_thousand_ids_leave_nothing(self) -> None:
        async with guarded() as (_, _, client):
            for turn in range(100):
                await ask(client, with_lines(request("GET", "/liveness"), f"x-request-id: warm-{turn}"))
            base = rss_kb()
            for turn in range(1000):
                line = f"x-request-id: {'i' * (turn % 200)}{turn}"
                assert (await ask(client, with_lines(request("GET", "/liveness"), line, f"traceparent: {turn}"))).status == 200
            assert rss_kb() - base < 5000
