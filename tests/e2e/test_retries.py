"""Retries by policy (S2): of which answers, where to, how often, how soon."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.limits.budget import RetryBudget
from fastgw.sim import RawRequest, ScriptedConnection
from fastgw.upstream.target import Engine
from tests.e2e.engine_row import BACK_PRESSURE, BUSY_BODY, Fleet, fleet, status
from tests.e2e.engines import ANSWER, ask, fine, ok, pool_engine, posts
from tests.support.client import RawClient, RawResponse, chat


def passed_on(answer: RawResponse, number: int, **lines: str) -> None:
    """The engine's own answer, as it said it."""
    assert (answer.status, answer.body) == (number, BUSY_BODY)
    for name, value in lines.items():
        assert answer.header(name.replace("_", "-")) == value


class TestStatuses:
    """``retry_statuses``: another engine is asked instead of passing the answer on."""

    @pytest.mark.parametrize("number", [429, 502, 503])
    @pytest.mark.parametrize("stream", [False, True])
    async def test_S2_another_engine_answers_and_the_client_sees_nothing_else(self, number: int, stream: bool) -> None:
        async with fleet(status(number), fine, retry_statuses=BACK_PRESSURE) as it:
            answer = await it.ask(stream=stream, content="the very same")
            assert (answer.status, answer.body) == (200, ANSWER)
            assert it.asked == [1, 1]
            first, second = (posts(engine)[0] for engine in it.engines)
            assert (first.body, first.target) == (second.body, second.target)
            assert b"the very same" in second.body
            assert first.header(b"x-request-id") == second.header(b"x-request-id")
            assert (it.gw.stats.retries_total, it.gw.stats.retries_refused) == (1, 0)
            [record] = it.gw.records
            assert (record["status"], record["engine"]) == (200, pool_engine(it.gw, 1).name)

    async def test_S2_without_it_every_answer_is_passed_on(self) -> None:
        for number in (429, 500, 502, 503, 504):
            async with fleet(status(number, b"retry-after: 9"), fine) as it:
                passed_on(await it.ask(), number, retry_after="9")
                assert it.asked == [1, 0]

    async def test_S2_other_statuses_are_passed_on(self) -> None:
        for number in (400, 404, 422, 500, 504):
            async with fleet(status(number), fine, retry_statuses=BACK_PRESSURE) as it:
                passed_on(await it.ask(), number)
                assert it.asked == [1, 0]

    async def test_S2_never_the_engine_that_just_failed(self) -> None:
        """One engine alone is asked once; of three busy ones each is asked once, and the last one's answer stands."""
        async with fleet(status(503, b"x-from: alone"), retry_statuses=BACK_PRESSURE, max_retries=5) as it:
            passed_on(await it.ask(), 503, x_from="alone")
            assert it.asked == [1]
            assert (it.gw.stats.retries_total, it.gw.stats.retries_refused) == (0, 0)
        plays = [status(503, b"x-from: %d" % at) for at in range(3)]
        async with fleet(*plays, retry_statuses=BACK_PRESSURE, max_retries=5) as it:
            passed_on(await it.ask(), 503, x_from="2")
            assert it.asked == [1, 1, 1]

    async def test_S2_an_engine_that_is_spared_is_no_other_engine(self) -> None:
        """With the breaker of the other open there is nobody to ask: the answer that is there goes to the client."""
        plays = (status(503, b"x-from: busy"), status(500))
        settings = {"retry_statuses": BACK_PRESSURE, "cb_failure_threshold": 1, "max_retries": 3}
        async with fleet(*plays, **settings) as it:
            assert (await it.ask()).status == 500
            assert it.asked == [1, 1]
            passed_on(await it.ask(), 503, x_from="busy")
            assert it.asked == [2, 1]

    @pytest.mark.parametrize(("allowed", "asked"), [(0, [1, 0, 0, 0, 0]), (1, [1, 1, 0, 0, 0]), (3, [1, 1, 1, 1, 0])])
    async def test_S2_max_retries_is_kept(self, allowed: int, asked: list[int]) -> None:
        plays = [status(503, b"x-from: %d" % at) for at in range(5)]
        async with fleet(*plays, retry_statuses=BACK_PRESSURE, max_retries=allowed) as it:
            passed_on(await it.ask(), 503, x_from=str(allowed))
            assert it.asked == asked

    async def test_S2_04_the_verdicts_of_answers_that_were_not_passed_on(self) -> None:
        """502 counts against its engine though no client has seen it; 503 does not."""
        async with fleet(status(502), status(503), fine, retry_statuses=BACK_PRESSURE, max_retries=2) as it:
            assert (await it.ask()).status == 200
            assert [pool_engine(it.gw, at).failures_total for at in range(3)] == [1, 0, 0]


class TestRetryAfter:
    """An engine that asks several to leave it alone is left alone by all, for as long as it says and a minute at most."""

    async def test_S2_requests_stay_away_from_it_until_then(self) -> None:
        async with fleet(status(503, b"retry-after: 1"), fine, retry_statuses=BACK_PRESSURE) as it:
            begun = monotonic()
            assert (await it.ask(source="127.0.0.2")).status == 200
            assert [(await it.ask()).status for _ in range(6)] == [200] * 6
            assert monotonic() - begun < 0.9, "too slow to tell"
            assert it.asked == [2, 7]
            assert it.gw.stats.retries_total == 2
            await asyncio.sleep(max(0.0, begun + 1.05 - monotonic()))
            assert (await it.ask()).status == 200
            assert it.asked == [3, 8]

    @pytest.mark.parametrize(
        ("keys", "sources"),
        [((), ("127.0.0.1",)), (("sk-one",), ("127.0.0.1", "127.0.0.2"))],
        ids=["one address", "one key, from two addresses"],
    )
    async def test_S2_what_one_client_may_have_provoked_holds_for_his_request_only(
        self, keys: tuple[str, ...], sources: tuple[str, ...]
    ) -> None:
        """He is served elsewhere each time, and nobody else is kept from the engine."""
        settings = {"retry_statuses": BACK_PRESSURE, "api_keys": keys, "retry_budget_percent": 100}
        async with fleet(status(429, b"retry-after: 60"), fine, **settings) as it:
            key = keys[0] if keys else None
            for source in (*sources, *sources):
                assert (await it.ask(source=source, key=key)).status == 200
            assert it.asked == [2 * len(sources)] * 2
            assert pool_engine(it.gw).not_before == 0.0

    async def test_S2_two_keys_of_one_address_are_two(self) -> None:
        keys = ("sk-one", "sk-two")
        async with fleet(status(429, b"retry-after: 60"), fine, retry_statuses=BACK_PRESSURE, api_keys=keys) as it:
            for key in (*keys, *keys):
                assert (await it.ask(key=key)).status == 200
            assert it.asked == [2, 4]

    async def test_S2_two_words_that_do_not_meet_are_not_several(self) -> None:
        """What the first was told is over when the second is told."""
        async with fleet(status(429, b"retry-after: 1"), fine, retry_statuses=BACK_PRESSURE) as it:
            assert (await it.ask()).status == 200
            await asyncio.sleep(1.05)
            assert (await it.ask(source="127.0.0.2")).status == 200
            assert (await it.ask(source="127.0.0.2")).status == 200
            assert it.asked == [3, 3]

    async def test_S2_no_longer_than_a_minute(self) -> None:
        async with fleet(status(429, b"Retry-After: 86400"), fine, retry_statuses=BACK_PRESSURE) as it:
            for source in ("127.0.0.1", "127.0.0.2"):
                assert (await it.ask(source=source)).status == 200
            assert 50 < pool_engine(it.gw).not_before - monotonic() <= 60

    async def test_S2_when_all_have_asked_for_it_the_client_is_told_when_the_first_is_back(self) -> None:
        plays = (status(503, b"retry-after: 40"), status(503, b"retry-after: 20", b"x-from: second"))
        settings = {"retry_statuses": BACK_PRESSURE, "health_interval_s": 60.0, "retry_budget_percent": 100}
        async with fleet(*plays, **settings) as it:
            for source in ("127.0.0.1", "127.0.0.2"):
                passed_on(await it.ask(source=source), 503, x_from="second", retry_after="20")
            answer = await it.ask()
            assert (answer.status, answer.error["type"]) == (503, "upstream_error")
            assert 15 <= int(answer.header("retry-after") or 0) <= 20
            assert it.asked == [2, 2]

    @pytest.mark.parametrize(
        ("told", "until"),
        [
            ([("a", 0.0, 60.0)], 0.0),
            ([("a", 0.0, 60.0), ("a", 1.0, 60.0)], 0.0),
            ([("a", 0.0, 60.0), ("b", 1.0, 5.0)], 6.0),
            ([("a", 0.0, 5.0), ("b", 1.0, 60.0)], 5.0),
            ([("a", 0.0, 5.0), ("b", 5.0, 5.0)], 0.0),
            ([("a", 0.0, 9.0), ("b", 1.0, 9.0), ("a", 2.0, 30.0)], 10.0),
            ([("a", 0.0, 9.0), ("b", 1.0, 9.0), ("c", 2.0, 30.0)], 10.0),
            ([(f"k{at}", float(at), 10.0) for at in range(1000)], 1008.0),
        ],
    )
    def test_S2_as_long_as_two_were_told(self, told: list[tuple[str, float, float]], until: float) -> None:
        engine = Engine(EngineConfig(url="http://127.0.0.1:9"))
        for caller, now, seconds in told:
            engine.told_to_wait(caller, now, seconds)
            assert len(engine.words) <= 2
        assert engine.not_before == until

    async def test_S2_it_holds_for_retry_statuses_only(self) -> None:
        async with fleet(status(503, b"retry-after: 30"), fine) as it:
            for _ in range(3):
                passed_on(await it.ask(), 503, retry_after="30")
            assert it.asked == [3, 0]


class TestBudget:
    """Retries are a share of the live traffic: an outage does not double the load of engines that are in trouble."""

    async def test_S2_two_hundred_that_all_fail(self) -> None:
        async with fleet(status(503), status(503), retry_statuses=BACK_PRESSURE) as it:
            begun = monotonic()
            turns = [20] * 10
            async with AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(RawClient.connect("127.0.0.1", it.gw.port)) for _ in range(10)]

                async def one(client: RawClient, count: int) -> None:
                    for _ in range(count):
                        passed_on(await ask(client), 503)

                await asyncio.gather(*map(one, clients, turns))
            took = monotonic() - begun
            asked = sum(it.asked)
            retries = asked - 200
            assert it.gw.stats.retries_total == retries
            # A tenth of the traffic, and the floor of one a second over the ten that the budget looks back.
            assert 10 <= retries <= 20 + 10 + took
            assert it.gw.stats.retries_refused == 200 - retries

    async def test_S2_a_spent_budget_passes_the_answer_on(self) -> None:
        async with fleet(status(503), fine, retry_statuses=BACK_PRESSURE, retry_budget_percent=0) as it:
            seen = [await it.ask() for _ in range(13)]
            statuses = [answer.status for answer in seen]
            assert statuses == [200] * 10 + [503] * 3  # the floor: ten in ten seconds
            for answer in seen[10:]:
                passed_on(answer, 503)
            assert (it.gw.stats.retries_total, it.gw.stats.retries_refused) == (10, 3)

    async def test_S2_connections_that_fail_cost_no_budget(self) -> None:
        """Nothing was sent: the next engine is asked at once, however often."""
        async with fleet(fine, fine, retry_budget_percent=0, max_retries=0, health_unhealthy_after=1000) as it:
            await it.engines[0].stop_listening()
            assert [(await it.ask()).status for _ in range(15)] == [200] * 15
            assert it.asked == [0, 15]
            assert (it.gw.stats.retries_total, it.gw.stats.failovers_total) == (0, 15)


class TestFull:
    """The engine that is left has no room: the request waits for it, and not for the one that has refused it."""

    @staticmethod
    @asynccontextmanager
    async def busy(**settings: Any) -> AsyncIterator[tuple[Fleet, RawClient, asyncio.Event]]:
        """The first engine refuses; the second has one place, taken by the client that is given, until the event."""
        release = asyncio.Event()
        came = asyncio.Event()

        async def one_at_a_time(conn: ScriptedConnection, _: RawRequest) -> None:
            came.set()
            await release.wait()
            await conn.send(ok())

        settings = {"retry_statuses": BACK_PRESSURE, "engine_max_concurrent": 1, "retry_budget_percent": 100, **settings}
        async with fleet(status(503), one_at_a_time, **settings) as it, RawClient.connect("127.0.0.1", it.gw.port) as first:
            await first.send(chat())
            await came.wait()
            assert it.asked == [1, 1]
            yield it, first, release

    async def test_S2_a_retry_waits_for_room(self) -> None:
        async with self.busy() as (it, first, release), RawClient.connect("127.0.0.1", it.gw.port) as second:
            await second.send(chat())
            await it.gw.until("it waits", lambda: it.gw.stats.queue_waiting_open == 1)
            assert it.asked == [2, 1]
            release.set()
            assert [(await client.read_response()).status for client in (first, second)] == [200, 200]
            assert it.asked == [2, 2]
            await it.gw.idle()
            assert [record["queued_s"] >= 0 for record in it.gw.records] == [False, True]

    async def test_S2_a_client_that_leaves_there_is_forgotten(self) -> None:
        async with self.busy() as (it, first, release):
            async with RawClient.connect("127.0.0.1", it.gw.port) as second:
                await second.send(chat())
                await it.gw.until("it waits", lambda: it.gw.stats.queue_waiting_open == 1)
            await it.gw.until("it is gone", lambda: it.gw.stats.queue_waiting_open == 0)
            release.set()
            assert (await first.read_response()).status == 200
            await it.gw.idle()
            assert it.asked == [2, 1]

    async def test_S2_its_time_there_ends_like_any_other(self) -> None:
        async with self.busy(queue_timeout_s=0.15) as (it, first, release):
            answer = await it.ask()
            assert (answer.status, answer.error["code"]) == (503, "queue_timeout")
            assert int(answer.header("retry-after") or 0) >= 1
            release.set()
            assert (await first.read_response()).status == 200

    async def test_S2_nobody_waits_where_nobody_shall(self) -> None:
        async with self.busy(on_capacity="reject") as (it, first, release):
            answer = await it.ask()
            assert (answer.status, answer.error["code"]) == (429, "at_capacity")
            assert it.asked == [2, 1]
            release.set()
            assert (await first.read_response()).status == 200


class TestBackoff:
    async def test_S2_waits_double_and_differ(self) -> None:
        """Full jitter: a retry waits a chance share of 25 ms, 50 ms, 100 ms, 200 ms. Measured at the engines."""
        plays = [*[status(503) for _ in range(4)], fine]
        crowd = 40
        settings = {"retry_statuses": BACK_PRESSURE, "max_retries": 4}
        async with fleet(*plays, **settings) as it:
            core = it.gw.gateway.core
            assert core is not None
            core.budget = RetryBudget(1.0, 1000.0)  # what is measured here is not the share
            answers = await asyncio.gather(*(it.ask() for _ in range(crowd)))
            assert [answer.status for answer in answers] == [200] * crowd
            assert it.asked == [crowd] * 5
            came = [{seen.header(b"x-request-id"): seen.at_s for seen in posts(engine)} for engine in it.engines]
        gaps = [[came[at + 1][name] - came[at][name] for name in came[0]] for at in range(4)]
        for at, span in enumerate((0.025, 0.05, 0.1, 0.2)):
            assert max(gaps[at]) < span + 0.25, "longer than its span, and than a slow machine explains"
            assert statistics.stdev(gaps[at]) > span * 0.1
        means = [statistics.fmean(row) for row in gaps]
        assert means[3] > means[2] > means[0]
        assert means[3] > 2.5 * means[0] or means[3] > 0.08

    async def test_S2_a_client_that_leaves_meanwhile_is_the_end_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fastgw.exchange.asking.backoff_s", lambda attempt, chance: 0.15)
        async with fleet(status(503), fine, retry_statuses=BACK_PRESSURE) as it:
            leaver = await it.gw.client()
            await leaver.send(chat())
            await it.gw.until("it waits", lambda: it.gw.stats.retries_total == 1)
            leaver.reset()
            await it.gw.idle()
            await asyncio.sleep(0.25)
            assert it.asked == [1, 0]
            assert [(record["status"], record["outcome"]) for record in it.gw.records] == [(499, "client_closed")]

    async def test_S2_its_own_deadline_holds_meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fastgw.exchange.asking.backoff_s", lambda attempt, chance: 5.0)
        async with fleet(status(503), fine, retry_statuses=BACK_PRESSURE) as it:
            begun = monotonic()
            answer = await it.ask(headers=[("x-request-timeout-ms", "150")])
            assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
            assert monotonic() - begun < 2
            assert it.asked == [1, 0]
