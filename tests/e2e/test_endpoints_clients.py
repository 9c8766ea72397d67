"""Clients of the endpoints: old and eager ones, what an answer tells them of their request, and how long they have."""

from __future__ import annotations

import json
from time import monotonic

import pytest

from tests.e2e.asked import ask, before
from tests.e2e.front import front
from tests.support.client import NoResponse, chat, request


class TestOldAndEagerClients:
    """HTTP/1.0, pipelining and `Expect` as real programs use them."""

    async def test_http_1_0_gets_a_body_that_ends_with_the_connection(self) -> None:
        """As `ab` without `-k` asks."""
        async with before() as (gw, sim), await gw.client() as client:
            direct = await ask(sim.url, chat("sim", stream=True))
            await client.send(chat("sim", stream=True, version="HTTP/1.0"))
            answer = await client.read_response()
            assert answer.header("transfer-encoding") is None
            assert (answer.how_ended, answer.body) == ("eof", direct.body)
            assert answer.header("connection") in (None, "close")

    async def test_http_1_0_with_keep_alive(self) -> None:
        """As `ab -k` asks: it needs a length and the promise, or the close."""
        async with before() as (gw, _), await gw.client() as client:
            for _turn in range(3):
                await client.send(chat("sim", version="HTTP/1.0", headers=[("Connection", "Keep-Alive")]))
                answer = await client.read_response()
                assert answer.how_ended == "length"
                assert (answer.header("connection") or "").lower() == "keep-alive"
            await client.send(chat("sim", stream=True, version="HTTP/1.0", headers=[("Connection", "Keep-Alive")]))
            answer = await client.read_response()
            assert (answer.how_ended, answer.header("connection")) == ("eof", "close")
        assert gw.stats.connections_total == 1

    @pytest.mark.parametrize("path", ["/healthz", "/v1/models"])
    async def test_http_1_0_for_local_answers(self, path: str) -> None:
        async with before() as (gw, _), await gw.client() as client:
            await client.send(request("GET", path, version="HTTP/1.0", host=None))
            answer = await client.read_response()
            assert (answer.status, answer.how_ended) == (200, "length")
            assert await client.read_until_closed() == (b"", "fin")

    async def test_pipelined_requests_are_answered_in_order(self) -> None:
        async with before() as (gw, sim), await gw.client() as client:
            bodies = [chat("sim", content=f"number {i}", max_tokens=3 + i, stream=i % 2 == 1) for i in range(8)]
            expected = [(await ask(sim.url, data)).body for data in bodies]
            await client.send(b"".join(bodies))
            assert [(await client.read_response()).body for _ in bodies] == expected
        assert gw.stats.connections_total == 1

    async def test_expect_as_curl_sends_it(self) -> None:
        async with before() as (gw, _), await gw.client() as client:
            head, _, body = chat("sim", content="x" * 300_000, headers=[("Expect", "100-continue")]).partition(b"\r\n\r\n")
            await client.send(head + b"\r\n\r\n")
            assert (await client.read_some()) == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(body)
            assert (await client.read_response()).status == 200


class TestReceipts:
    """What the answer says about the request: its id and where its time went."""

    @pytest.mark.parametrize("stream", [False, True])
    async def test_server_timing_when_asked_for(self, stream: bool) -> None:
        async with before({"ttft_ms": 60.0}, server_timing=True) as (gw, _):
            begin = monotonic()
            answer = await ask(gw.url, chat("sim", stream=stream))
            took_ms = (monotonic() - begin) * 1e3
        parts = dict(part.strip().split(";dur=") for part in (answer.header("server-timing") or "").split(","))
        spent = {name: float(value) for name, value in parts.items()}
        assert set(spent) == {"parse", "queue", "upstream", "gateway"}
        assert 55.0 <= spent["upstream"] <= took_ms
        assert 0.0 <= spent["gateway"] < 50.0
        assert min(spent.values()) >= 0.0

    async def test_server_timing_is_off_by_default(self) -> None:
        async with before() as (gw, _):
            assert (await ask(gw.url, chat("sim"))).header("server-timing") is None

    async def test_a_request_id_is_accepted_returned_sent_on_and_logged(self) -> None:
        async with before() as (gw, sim):
            given = await ask(gw.url, chat("sim", headers=[("X-Request-ID", "trace-1/a:b")]))
            assert given.header("x-request-id") == "trace-1/a:b"
            assert sim.requests.to("/v1/chat/completions")[0].header("x-request-id") == "trace-1/a:b"
            made = [
                await ask(gw.url, data)
                for data in (chat("sim"), chat("sim", stream=True), chat("no-such"), request("GET", "/healthz"))
            ]
            ids = [answer.header("x-request-id") for answer in made]
            assert len(set(ids)) == 4
            assert all(ids)
        assert [record["request_id"].decode() for record in gw.records] == ["trace-1/a:b", *ids]

    async def test_an_answer_has_a_date_also_where_the_engine_gave_none(self) -> None:
        async with front() as place, await place.client() as client:
            await client.send(chat())
            assert "GMT" in ((await client.read_response()).header("date") or "")


@pytest.mark.together
class TestTimeouts:
    """Each limit ends what it limits, at its time, and nothing else."""

    async def timed(self, begin: float, low: float, high: float) -> None:
        took = monotonic() - begin
        assert low <= took <= high, f"took {took:.2f} s"

    async def test_idle_connections_are_closed_in_silence(self) -> None:
        async with before(keepalive_timeout_s=0.4) as (gw, _), await gw.client() as client:
            await client.send(chat("sim"))
            assert (await client.read_response()).status == 200
            begin = monotonic()
            assert await client.read_until_closed() == (b"", "fin")
            await self.timed(begin, 0.35, 2.0)

    async def test_an_engine_that_never_begins(self) -> None:
        async with before(first_byte_timeout_s=0.4) as (gw, _sim), await gw.client() as client:
            begin = monotonic()
            await client.send(chat("sim", headers=[("x-sim-fault", "stall-before")]))
            answer = await client.read_response()
            await self.timed(begin, 0.35, 2.0)
            assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
            await client.send(chat("sim"))
            assert (await client.read_response()).status == 200

    async def test_an_engine_that_stops_in_mid_stream(self) -> None:
        async with before(between_bytes_timeout_s=0.4) as (gw, _), await gw.client() as client:
            await client.send(chat("sim", stream=True, headers=[("x-sim-fault", "stall-after-events=3")]))
            answer = await client.read_response()
            assert not answer.complete
            assert json.loads(answer.events()[-1])["error"]["code"] == "upstream_timeout"

    @pytest.mark.parametrize("stream", [False, True])
    async def test_the_limit_of_the_whole_exchange(self, stream: bool) -> None:
        async with before({"itl_ms": 50.0}, request_timeout_s=0.5) as (gw, sim), await gw.client() as client:
            begin = monotonic()
            await client.send(chat("sim", stream=stream, max_tokens=500))
            answer = await client.read_response()
            await self.timed(begin, 0.4, 2.0)
            if stream:
                assert not answer.complete
                assert json.loads(answer.events()[-1])["error"]["code"] == "upstream_timeout"
            else:
                assert answer.status == 504
            await gw.until("the engine stopped", lambda: sim.state.running == 0)

    async def test_a_first_byte_limit_never_cuts_a_live_stream(self) -> None:
        async with before({"itl_ms": 30.0}, first_byte_timeout_s=0.3) as (gw, _):
            answer = await ask(gw.url, chat("sim", stream=True, max_tokens=30))
            assert (answer.events()[-1], answer.complete) == ("[DONE]", True)

    async def test_a_head_that_never_ends(self) -> None:
        async with front(head_timeout_s=0.4) as place, await place.client() as client:
            await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
            assert (await client.read_response()).status == 408
        async with front(keepalive_timeout_s=0.4) as place, await place.client() as client:
            with pytest.raises(NoResponse):
                await client.read_response()
