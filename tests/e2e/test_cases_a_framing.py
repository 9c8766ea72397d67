"""Group A of the cases: HTTP/1.1 framing and smuggling, over real sockets. Rows as in the table; A23 onwards stand in
``test_cases_a_turns.py``, A28 in ``test_cases_a_splits.py``.

Each refused input is followed by what would be a second request: whoever misreads the first one serves it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence

import pytest

from tests.e2e import cases_a as a
from tests.e2e.cases_a import Case
from tests.e2e.front import TAIL, Front, front, judge, refusal
from tests.support.client import RawClient, chat, request


async def refused(cases: Sequence[Case]) -> None:
    """Each gets its one error and the end of its connection; no engine sees a byte; other clients are served."""
    async with front() as f, await f.client() as other:
        for case in cases:
            try:
                async with await f.client() as client:
                    await _refused(f, other, client, case)
            except BaseException as error:
                error.add_note(f"this was the case {case}")
                raise


async def _refused(f: Front, other: RawClient, client: RawClient, case: Case) -> None:
    def at_the_engine() -> list[int]:
        return [len(conn.received) for conn in f.touched]

    before, recorded = at_the_engine(), len(f.gw.raw_records)
    await client.send(case.data + TAIL)
    await f.probe(other)
    answer = await refusal(client, *case.statuses)
    assert at_the_engine() == before
    # The connection is over for good: nothing sent later is served either.
    with pytest.raises((ConnectionError, AssertionError)):  # noqa: PT012 - which of the two notices first is a race
        await client.send(TAIL)
        await client.read_response(timeout=0.2)
    assert at_the_engine() == before
    await other.send(chat("m", headers=[("X-Tag", "after")]))
    assert (await other.read_response()).json()["tag"] == "after"
    assert sum(at_the_engine()) > sum(before)
    assert {seen.header(b"x-tag") for seen in f.work} == {b"after"}
    told = [(one.status, one.outcome, one.engine) for one in f.gw.raw_records[recorded:]]
    assert sorted(told) == sorted([(answer.status, "error", ""), (200, "ok", ""), (200, "ok", told[-1][2])])


class TestA1:
    """Content-Length and Transfer-Encoding together: E400 C ∅ (RFC 9112 §6.1)."""

    async def test_A1_length_and_coding(self) -> None:
        await refused(a.A1)


class TestA2:
    """Two lengths, equal or not, in two fields or one: E400 C ∅ (RFC 9112 §6.3)."""

    async def test_A2_two_lengths(self) -> None:
        await refused(a.A2)


class TestA3:
    """A length that is not digits alone, or too large: E400 C ∅; empty is never 0."""

    async def test_A3_malformed_length(self) -> None:
        await refused(a.A3)


class TestA5:
    """A coding other than one ``chunked``: E400 or 501, C ∅."""

    async def test_A5_other_coding(self) -> None:
        await refused(a.A5)


class TestA7:
    """Transfer-Encoding on HTTP/1.0: E400 C ∅."""

    async def test_A7_coding_in_http_1_0(self) -> None:
        await refused(a.A7)


class TestA8A9:
    """A malformed chunk (A8 its size, A9 its ends): E400 C. What was accepted before it may have reached an engine; nothing
    beyond it does, and that engine connection is closed."""

    async def test_A8_chunk_size(self) -> None:
        await refused(a.A8)

    async def test_A9_chunk_ends(self) -> None:
        await refused(a.A9)

    @pytest.mark.parametrize("size", a.A8_SIZES, ids=a._text)
    async def test_A8_chunk_size_of_an_upload(self, size: bytes) -> None:
        await self.stopped_at(b"5\r\nhello\r\n", size + b"\r\nworld\r\n0\r\n\r\n")

    @pytest.mark.parametrize("name", [name for name, body in a.A9_ENDS.items() if body.startswith(b"5\r\nhello")])
    async def test_A9_chunk_ends_of_an_upload(self, name: str) -> None:
        await self.stopped_at(b"5\r\nhello", a.A9_ENDS[name][8:])

    @staticmethod
    async def stopped_at(accepted: bytes, bad: bytes) -> None:
        """An upload of which ``accepted`` has gone on to the engine, then ``bad``."""
        async with front(listen) as f, await f.client() as client:
            await client.send(a.upload(accepted))
            await f.gw.until("the engine has the good part", lambda: f.touched and b"hello" in f.touched[0].received)
            await client.send(bad + TAIL)
            await refusal(client, 400)
            (conn,) = f.touched
            await conn.wait_closed(1.0)
            head, _, body = bytes(conn.received).partition(b"\r\n\r\n")
            assert b"transfer-encoding: chunked" in head.lower()
            assert body == b"5\r\nhello\r\n", "the accepted prefix and no more: no last chunk, so no engine takes it for whole"
            assert [record["status"] for record in f.gw.records] == [400]

    @pytest.mark.parametrize(
        "body",
        [
            b"1b\r\n" + a.JSON + b"\r\n0\r\n\r\n",
            b"1B\r\n" + a.JSON + b"\r\n0\r\n\r\n",
            b"0000000000001b\r\n" + a.JSON + b"\r\n0000\r\n\r\n",
            b'1b;name=value;q="a b"\r\n' + a.JSON + b"\r\n0;last\r\n\r\n",
            b"1b\r\n" + a.JSON + b"\r\n0\r\nX-Checksum: 1\r\nX-Other:\r\n\r\n",
            b"1\r\n{\r\n1a\r\n" + a.JSON[1:] + b"\r\n0\r\n\r\n",
        ],
        ids=["plain", "upper case", "zeros", "extensions", "trailers", "two chunks"],
    )
    @pytest.mark.parametrize("make", [a.chunked, a.upload])
    async def test_A8_good_chunks_go_on(self, make: Callable[[bytes], bytes], body: bytes) -> None:
        async with front() as f, await f.client() as client:
            for _ in range(2):
                await client.send(make(body))
                assert (await client.read_response()).json()["got"] == len(a.JSON)
            assert [seen.body for seen in f.work] == [a.JSON, a.JSON]
            assert all(seen.header(b"x-checksum") is None for seen in f.work)


async def listen(conn: object, head: bytes) -> None:
    """An engine that takes all it gets and says nothing."""
    while True:
        await conn.read_some()  # type: ignore[attr-defined]


class TestA12ToA17:
    """Bytes where they must not be: bare CR (A12), bare LF (A13), controls (A14), blanks around names (A15), folded lines
    (A16),
    malformed names (A17): E400 C ∅."""

    async def test_A12_bare_cr(self) -> None:
        await refused(a.A12)

    async def test_A13_bare_lf(self) -> None:
        await refused(a.A13)

    async def test_A14_controls(self) -> None:
        await refused(a.A14)

    async def test_A15_blanks_around_the_name(self) -> None:
        await refused(a.A15)

    async def test_A16_folded_lines(self) -> None:
        await refused(a.A16)

    async def test_A17_malformed_names(self) -> None:
        await refused(a.A17)

    @pytest.mark.parametrize(
        "value",
        [bytes(range(128, 256)), b"\xa0x\x85", b"caf\xc3\xa9", b"a\tb", b"\x80", b"\xff" * 300],
        ids=["all", "blanks of Latin-1", "UTF-8", "tab", "one", "long"],
    )
    async def test_A17_obs_text_in_values_goes_on_untouched(self, value: bytes) -> None:
        async with front() as f, await f.client() as client:
            await client.send(a.post(b"X-Name: " + value, b"Content-Length: 27", body=a.JSON))
            assert (await client.read_response()).status == 200
            (seen,) = f.work
            assert b"X-Name: " + value + b"\r\n" in seen.head


class TestA18:
    """Underscore twins of fields that frame or identify: refused or dropped, never forwarded."""

    async def test_A18_twins_of_framing_fields(self) -> None:
        await refused(a.A18)

    @pytest.mark.parametrize(
        "name",
        [
            "X_Forwarded_For",
            "X-Forwarded_For",
            "x_real_ip",
            "X_Api_Key",
            "x_api-key",
            "API_KEY",
            "X_Request_Id",
            "Proxy_Authorization",
        ],
    )
    async def test_A18_twins_of_our_fields(self, name: str) -> None:
        async with front() as f, await f.client() as client:
            await client.send(chat("m", headers=[(name, "6.6.6.6"), ("My_Field", "kept")]))
            assert (await client.read_response()).status == 200
            (seen,) = f.work
            assert b"6.6.6.6" not in seen.head
            assert name.lower().encode() not in seen.head.lower()
            assert seen.header(b"my_field") == b"kept"
            assert f.gw.records[0]["client"] == "127.0.0.1"
            assert f.gw.records[0]["request_id"] != b"6.6.6.6"

    @pytest.mark.parametrize("name", ["X_Api_Key", "x_api-key", "Api_Key"])
    async def test_A18_a_twin_is_no_credential(self, name: str) -> None:
        async with front(api_key_digests=[hashlib.sha256(b"sk-right").digest()]) as f, await f.client() as client:
            await client.send(chat("m", headers=[(name, "sk-right")]))
            judge(await client.read_response(), 401, type="authentication_error")
            assert f.touched == []
            await client.send(chat("m", key="sk-right"))
            assert (await client.read_response()).status == 200


class TestA19ToA21:
    """Request lines (A19), Host (A20), targets (A21), an h2 preface (A27): E400 or 505 C ∅; CONNECT 405 or 501."""

    async def test_A19_request_line(self) -> None:
        await refused(a.A19)

    async def test_A20_host(self) -> None:
        await refused(a.A20)

    @pytest.mark.parametrize("host", ["a", "a.b.c:80", "127.0.0.1:8080", "[::1]", "[2001:db8::1]:443", "x_y-z~"])
    async def test_A20_good_host(self, host: str) -> None:
        async with front() as f, await f.client() as client:
            await client.send(chat("m", host=host))
            assert (await client.read_response()).status == 200
            # The engine is addressed as itself: a client's Host never chooses where it thinks it is.
            assert f.work[0].header(b"host") == f.engine.url.removeprefix("http://").encode()
            assert len([name for name, _ in f.work[0].headers if name.lower() == b"host"]) == 1

    async def test_A20_no_host_is_right_in_http_1_0(self) -> None:
        async with front() as f, await f.client() as client:
            await client.send(chat("m", host=None, version="HTTP/1.0"))
            assert (await client.read_response()).status == 200

    async def test_A21_target(self) -> None:
        await refused(a.A21)

    async def test_A21_options_star_is_answered(self) -> None:
        async with front() as f, await f.client() as client:
            for _ in range(2):
                await client.send(request("OPTIONS", "*"))
                answer = await client.read_response()
                assert answer.status in (200, 204)
                assert "POST" in (answer.header("allow") or "")
            assert f.touched == []

    @pytest.mark.parametrize("authority", ["gateway", "other.example:81", "[::1]:8080"])
    async def test_A21_absolute_form_is_its_path(self, authority: str) -> None:
        """RFC 9112 §3.2.2: a server takes the absolute form; its authority replaces Host and reaches no engine."""
        async with front() as f, await f.client() as client:
            await client.send(chat("m", path=f"http://{authority}/v1/chat/completions"))
            assert (await client.read_response()).status == 200
            assert f.work[0].target == b"/v1/chat/completions"
            assert authority.encode() not in f.work[0].head

    async def test_A21_is_answered_where_nobody_has_a_second_opinion(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """httptools cannot be read (no descriptor is left, no file is there): an answer, not silence until the head is late."""
        async with front(expect_internal_errors=True) as f, await f.client() as client:
            with monkeypatch.context() as without:
                without.setitem(sys.modules, "httptools", None)
                await client.send(chat("m", path="http://gateway/v1/chat/completions"))
                assert (await client.read_response()).status == 500
            assert f.touched == []
            async with await f.client() as other:
                await other.send(chat("m", path="http://gateway/v1/chat/completions"))
                assert (await other.read_response()).status == 200

    async def test_A27_h2_preface_on_an_h1_port(self) -> None:
        await refused(a.A27)


class TestAll:
    """What holds for every row, whatever it was."""

    async def test_A_all_cases_beside_each_other_leave_others_alone(self) -> None:
        """All inputs at once, each on its connection: each gets its own verdict, a neighbour's requests are all served."""
        async with front() as f, await f.client() as other:
            clients: list[tuple[Case, RawClient]] = []
            for case in a.REFUSED:
                client = await f.client()
                clients.append((case, client))
                await client.send(case.data)
                if len(clients) % 25 == 0:
                    await f.probe(other)
            for case, client in clients:
                await refusal(client, *case.statuses)
                client.close()
            assert f.touched == []
            assert f.gw.stats.refused_total == len(a.REFUSED)
            by_outcome = {record["outcome"] for record in f.gw.records if record["status"] != 200}
            assert by_outcome == {"error"}
            await f.gw.until("connections are back to the one", lambda: f.gw.stats.connections_open == 1, 1.0)


def test_A_the_table_is_whole() -> None:
    """No row lost its inputs, no two inputs are the same."""
    assert {case.row for case in a.REFUSED} == {
        f"A{n}" for n in (1, 2, 3, 5, 7, 8, 9, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 27)
    }
    assert len({case.data for case in a.REFUSED}) == len(a.REFUSED)
