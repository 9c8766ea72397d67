"""CASES, group E, on all ways: what an engine does wrong, whichever protocol it speaks, and what a client of either sees.

``E nnn`` is an OpenAI-shaped refusal without internals; ``K`` is proved by a second request of the same client; an abort is an
answer that its own framing never completes. What has no counterpart in the other protocol is in ``test_cases_e_*.py`` and
``tests/h2cases``.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from typing import Any

import msgspec
import pytest

from tests.e2e.engines import ANSWER, EVENT, aborted, pool_engine, refused
from tests.e2e.test_cases_e_upstream import black_hole
from tests.support.answers import RawResponse
from tests.support.h2.frames import goaway
from tests.support.ports import closed_port
from tests.support.ways.h1 import How
from tests.support.ways.h2 import H2Engine
from tests.support.ways.way import Way, all_ways, and_tunnels, plain_ways, say

JSON = b"content-type: application/json"
SSE = b"content-type: text/event-stream"
HOWS: tuple[How, ...] = ("fin", "rst")


async def fine(turn: Any) -> None:
    await turn.head(JSON, length=len(ANSWER))
    await turn.data(ANSWER)
    await turn.end()


def is_fine(answer: RawResponse) -> None:
    assert (answer.status, answer.body, answer.complete) == (200, ANSWER, True)


@all_ways
async def test_E1_one_that_refuses_is_passed_over(way: Way) -> None:
    dead = f"http://127.0.0.1:{closed_port()}"
    async with way.engine(fine) as engine, way.gateway(dead, engine.url, policy="ordered") as gw, way.client(gw) as client:
        for _ in range(3):
            is_fine(await client.asks(say()))
        assert len(engine.turns) == 3
        assert {record["outcome"] for record in gw.records} == {"ok"}
    async with way.gateway(dead) as gw, way.client(gw) as client:
        for _ in range(2):
            refused(await client.asks(say()), 502)
        assert pool_engine(gw).failures_total == 2


@pytest.mark.together
@plain_ways
async def test_E1_one_that_does_not_take_the_connection_costs_the_connect_timeout(way: Way) -> None:
    with black_hole() as port:
        limits = {"connect_timeout_s": 0.3, "health_timeout_s": 0.2, "policy": "ordered"}
        async with (
            way.engine(fine) as engine,
            way.gateway(f"http://127.0.0.1:{port}", engine.url, **limits) as gw,
            way.client(gw) as client,
        ):
            pool_engine(gw).healthy = True  # as it was a moment ago
            begun = time.monotonic()
            is_fine(await client.asks(say()))
            assert 0.29 <= time.monotonic() - begun < 0.3 + 1.0
        async with way.gateway(f"http://127.0.0.1:{port}", **limits) as gw, way.client(gw) as client:
            refused(await client.asks(say()), 504)


@all_ways
@pytest.mark.parametrize("how", HOWS)
async def test_E2_one_that_dies_over_a_fresh_connection_is_not_asked_again(how: How, way: Way) -> None:
    async def dies(turn: Any) -> None:
        await turn.breaks(how)

    async with (
        way.engine(dies) as first,
        way.engine(dies) as second,
        way.gateway(first.url, second.url) as gw,
        way.client(gw) as client,
    ):
        refused(await client.asks(say()), 502)
        assert len(first.turns) + len(second.turns) == 1
        refused(await client.asks(say()), 502)  # K
        assert pool_engine(gw, 0).failures_total + pool_engine(gw, 1).failures_total == 2


@all_ways
@pytest.mark.parametrize("how", HOWS)
async def test_E2_one_that_dies_over_a_connection_that_was_kept_is_asked_again_unseen(how: How, way: Way) -> None:
    async def second_time_unlucky(turn: Any) -> None:
        if len(engine.turns) == 2:
            await turn.breaks(how)
        else:
            await fine(turn)

    async with way.engine(second_time_unlucky) as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        for _ in range(3):
            is_fine(await client.asks(say()))
        assert (gw.stats.replays_total, len(engine.turns), pool_engine(gw).failures_total) == (1, 4, 0)
        assert engine.turns[1].request.body == engine.turns[2].request.body
    async with way.engine(second_time_unlucky) as engine, way.gateway(engine.url, replay=False) as gw, way.client(gw) as client:
        is_fine(await client.asks(say()))
        refused(await client.asks(say()), 502)
        is_fine(await client.asks(say()))
        assert len(engine.turns) == 3


@all_ways
@pytest.mark.parametrize("said", ["early", "head"])
async def test_E2_nothing_is_asked_again_once_it_has_answered(said: str, way: Way) -> None:
    async def second_time_unlucky(turn: Any) -> None:
        if len(first.turns) == 1:
            await fine(turn)
            return
        await (turn.early() if said == "early" else turn.head(JSON, length=9))
        await asyncio.sleep(0.005)
        await turn.breaks("fin")

    async with (
        way.engine(second_time_unlucky) as first,
        way.engine(fine) as other,
        way.gateway(first.url, other.url, policy="ordered") as gw,
        way.client(gw) as client,
    ):
        is_fine(await client.asks(say()))
        answer = await client.asks(say())
        if said == "early":
            refused(answer, 502)
        else:
            aborted(answer)
        assert (len(first.turns), len(other.turns)) == (2, 0)


@and_tunnels
async def test_E9_an_answer_that_ends_before_its_length_is_never_padded_nor_ended(way: Way) -> None:
    endings = ["fin", "rst", *(["end"] if way.engine_protocol == "h2" else [])]
    rows = [(cut, how) for cut in (1, 50, len(ANSWER) - 1) for how in endings]
    turns = iter(rows)

    async def short(turn: Any) -> None:
        cut, how = next(turns)
        await turn.head(JSON, length=len(ANSWER))
        await turn.data(ANSWER[:cut])
        await asyncio.sleep(0.005)
        await (turn.end() if how == "end" else turn.breaks(how))

    async with way.engine(short) as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        for row in rows:
            answer = await client.asks(say())
            aborted(answer)
            assert answer.header("content-length") == str(len(ANSWER)), row
            assert ANSWER.startswith(answer.body), row
        assert [record["outcome"] for record in gw.records] == ["truncated"] * len(rows)
        assert pool_engine(gw).truncations_total == len(rows)


@all_ways
async def test_E10_interim_answers_are_passed_over_and_not_without_end(way: Way) -> None:
    counts = iter([1, 16, 1, 17, 2000])

    async def speaks(turn: Any) -> None:
        await turn.early(next(counts))
        await fine(turn)

    async with way.engine(speaks) as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        for _ in range(3):
            answer = await client.asks(say())
            is_fine(answer)
            assert answer.interim == []
        assert {turn.connection for turn in engine.turns} == {engine.turns[0].connection}
        for _ in range(2):
            refused(await client.asks(say()), 502)
        assert len(engine.turns) == 5


@all_ways
async def test_E11_honest_fields_pass_untouched(way: Way) -> None:
    async def speaks(turn: Any) -> None:
        told = (b"x-obs: caf\xe9 \xff", b"x-tab: a\tb", b"x-empty:", b"x-twice: 1", b"x-twice: 2")
        await turn.head(JSON, *told, length=len(ANSWER))
        await turn.data(ANSWER)
        await turn.end()

    async with way.engine(speaks) as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        for _ in range(2):
            answer = await client.asks(say())
            is_fine(answer)
            assert [answer.header(name) for name in ("x-obs", "x-tab", "x-empty")] == ["caf\xe9 \xff", "a\tb", ""]
            assert answer.header_all("x-twice") == ["1", "2"]
            assert answer.header("x-request-id")


@pytest.mark.together
@all_ways
async def test_E13_no_answer_is_waited_for_so_long(way: Way) -> None:
    async def silent(turn: Any) -> None:
        await turn.given_up()

    async with way.engine(silent) as engine, way.gateway(engine.url, first_byte_timeout_s=0.3) as gw, way.client(gw) as client:
        begun = time.monotonic()
        refused(await client.asks(say()), 504)
        assert 0.25 <= time.monotonic() - begun < 0.3 + 1.0
        await engine.turns[0].given_up(1.0)
        assert gw.records[0]["error"] == "upstream_timeout"
        assert pool_engine(gw).failures_total == 1
        refused(await client.asks(say()), 504)  # K


@pytest.mark.together
@all_ways
async def test_E13_nor_the_next_bytes_of_a_stream(way: Way) -> None:
    async def stops(turn: Any) -> None:
        await turn.head(SSE)
        await turn.data(EVENT * 2)
        await turn.data(EVENT[:30])
        await turn.given_up()

    limit = {"between_bytes_timeout_s": 0.3}
    async with way.engine(stops) as engine, way.gateway(engine.url, **limit) as gw, way.client(gw) as client:
        begun = time.monotonic()
        answer = await client.asks(say(stream=True))
        assert 0.25 <= time.monotonic() - begun < 0.3 + 1.0
        aborted(answer)
        assert answer.body.startswith(EVENT * 2)
        assert '"code":"upstream_timeout"' in answer.events()[-1]
        assert answer.body.count(b'"error"') == 1
        await engine.turns[0].given_up(1.0)
        assert [record["outcome"] for record in gw.records] == ["upstream_timeout"]


@all_ways
async def test_E15_its_own_refusals_pass_once_and_unchanged(way: Way) -> None:
    statuses = [408, 429, 500, 503]
    turns = iter([status for status in statuses for _ in range(2)])
    body = b'{"object":"error", "message": "caf\xc3\xa9",  "type":"NotEnough","param":null}\n'

    async def refuses(turn: Any) -> None:
        lines = (b"retry-after: 17", b"retry-after-ms: 16500", b"x-should-retry: false")
        await turn.head(JSON, *lines, status=next(turns), length=len(body))
        await turn.data(body)
        await turn.end()

    async with way.engine(refuses) as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        for status in statuses:
            for stream in (False, True):
                answer = await client.asks(say(stream=stream))
                assert (answer.status, answer.body, answer.complete) == (status, body, True)
                assert answer.header("retry-after") == "17"
                assert (answer.header("retry-after-ms"), answer.header("x-should-retry")) == (None, None)
        assert len(engine.turns) == 8
        assert pool_engine(gw).failures_total == 2, "500 alone counts, twice"


@all_ways
async def test_a_long_request_comes_whole_at_the_pace_of_its_engine(way: Way) -> None:
    async with way.engine(fine) as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        for size in (0, 70_000, 700_000):
            is_fine(await client.asks(say(content="ü" * size)))
            assert json.loads(engine.turns[-1].request.body)["messages"][0]["content"] == "ü" * size
            assert engine.turns[-1].request.header(b"authorization") is None, "the client's key goes no further"
        assert len({turn.connection for turn in engine.turns}) == 1


@all_ways
async def test_D8_D9_D10_the_engine_sees_the_same_fields(way: Way) -> None:
    """The client's own, but for what is between the two of them; who he is, and the engine's own key."""
    own = [
        ("x-own", "caf\xe9"), ("x-own", "2"), ("accept", "*/*"), ("cookie", "a=1"), ("x-api-key", "secret"),
        ("x-forwarded-for", "9.9.9.9"), ("x-forwarded-proto", "gopher"), ("x-real-ip", "9.9.9.9"), ("te", "trailers"),
        ("x-request-id", "mine-1"), ("user-agent", "tests"), ("via", "1.0 a"), ("via", "1.1 b"),
    ]  # fmt: skip
    async with way.engine(fine) as engine:
        target = msgspec.structs.replace(way.target(engine.url), api_key="engines-own")
        async with way.gateway(engines=[target]) as gw, way.client(gw) as client:
            is_fine(await client.asks(say(headers=own)))
        seen = engine.turns[0].request
        told: dict[bytes, list[bytes]] = {}
        for name, value in seen.headers:
            told.setdefault(name.lower(), []).append(value)
        assert (seen.method, seen.target) == (b"POST", b"/v1/chat/completions")
        told.pop(b"host")
        (way_here,) = told.pop(b"via")
        last = b"2" if way.client_protocol == "h2" else b"1.1"
        assert re.fullmatch(rb"1\.0 a, 1\.1 b, %b fastgw-[0-9a-f]{8}" % last, way_here)
        length = told.pop(b"content-length", None)
        assert length in (None, [b"%d" % len(seen.body)])
        assert told == {
            b"accept": [b"*/*"],
            b"content-type": [b"application/json"],
            b"user-agent": [b"tests"],
            b"authorization": [b"Bearer engines-own"],
            b"x-forwarded-for": [b"127.0.0.1"],
            b"x-forwarded-proto": [b"https" if way.client_tls else b"http"],
            b"x-own": [b"caf\xe9", b"2"],
            b"x-request-id": [b"mine-1"],
        }


@and_tunnels
async def test_what_goes_round_ends(way: Way) -> None:
    """An engine that leads back here, or to another gateway that does, gets each request once."""
    async with way.engine(fine) as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        is_fine(await client.asks(say()))
        came_by = dict(engine.turns[0].request.headers)[b"via"].decode()
        refused(await client.asks(say(headers=[("via", came_by)])), 508)
        others = ", ".join(f"1.1 fastgw-{number:08x}" for number in range(8))
        refused(await client.asks(say(headers=[("x-first", "1"), ("via", f"1.1 a, {others}")])), 508)
        is_fine(await client.asks(say(headers=[("via", others.partition(", ")[2])])))
        assert len(engine.turns) == 2


IDLE_S = 0.006
TRIES = 40


class Impatient:
    """An engine that closes each connection on which nothing has been asked for so long; ``says``: GOAWAY before it."""

    def __init__(self, way: Way, says: bool) -> None:
        self.engine = way.engine(self._play)
        self.generated: list[bytes] = []
        self.closed = 0
        self._says = says
        self._shut: set[int] = set()
        self._timers: dict[int, asyncio.TimerHandle] = {}

    async def _play(self, turn: Any) -> None:
        at = turn.connection
        if at in self._shut:
            return  # it came with the closing, and is not looked at
        if at in self._timers:
            self._timers.pop(at).cancel()
        self.generated.append(json.loads(turn.request.body)["messages"][0]["content"])
        await fine(turn)
        self._timers[at] = asyncio.get_running_loop().call_later(IDLE_S, self._close, at, turn)

    def _close(self, at: int, turn: Any) -> None:
        del self._timers[at]
        self._shut.add(at)
        self.closed += 1
        if isinstance(self.engine, H2Engine):
            if self._says:
                turn.line.says(goaway(turn.number))
            turn.line.ends("fin")
        else:
            turn.conn.close()

    def stop(self) -> None:
        for timer in self._timers.values():
            timer.cancel()


@pytest.mark.together
@pytest.mark.parametrize(("way", "says"), [
    (Way("h1", False, "h1", False), False), (Way("h1", False, "h1", True), False),
    (Way("h2", False, "h2", False), False), (Way("h2", False, "h2", True), False),
    (Way("h2", False, "h2", False), True), (Way("h2", False, "h2", True), True),
], ids=str)  # fmt: skip
async def test_E3_no_client_sees_a_connection_that_closed_at_that_very_moment(way: Way, says: bool) -> None:
    impatient = Impatient(way, says)
    dice = random.Random(1)
    async with impatient.engine as engine, way.gateway(engine.url) as gw, way.client(gw) as client:
        for turn in range(TRIES):
            is_fine(await client.asks(say(content=str(turn))))
            await asyncio.sleep(dice.uniform(IDLE_S * 0.5, IDLE_S))
        impatient.stop()
        assert impatient.generated == [str(turn) for turn in range(TRIES)], "each was made once"
        assert impatient.closed > 4, "it never closed: this tried nothing"
        assert {record["status"] for record in gw.records} == {200}
