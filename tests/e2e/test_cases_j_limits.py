"""Rates over real sockets, row by row: J1 for addresses and keys, with S2.2.

In common to all: what came in one segment came at one time, so that the edge of a burst is exact however slow the machine
is; a refusal is a whole 429 on a connection that serves the next request; and the engine has seen what was admitted, no more.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from openai import AsyncOpenAI, RateLimitError

from fastgw.config import Config
from fastgw.sim import Simulator
from tests.e2e.metered import (
    CONTENT,
    KEY,
    OTHER_KEY,
    ask,
    assert_limited,
    left,
    metered,
    once,
    posts,
    say,
    usage_of,
    wait_as_told,
)  # fmt: skip
from tests.reference.profile import under
from tests.support.client import RawClient, RawResponse, chat, request
from tests.support.frame import prompt_estimate
from tests.support.gateway import Running

MESSAGES: Any = [{"role": "user", "content": CONTENT}]


async def answers(client: RawClient, data: bytes, count: int) -> list[RawResponse]:
    """``count`` requests that come at one moment, and what was said to each."""
    await client.send(data)
    return [await client.read_response() for _ in range(count)]


async def statuses(client: RawClient, data: bytes, times: int) -> list[int]:
    return [answer.status for answer in await answers(client, data * times, times)]


def meters(gw: Running) -> Any:
    """The addresses that the gateway remembers."""
    meters = gw.gateway._meters
    assert meters is not None
    return meters


def from_host(address: str, *, key: str = KEY) -> bytes:
    """A request that a proxy passes on for ``address``."""
    return request("GET", "/v1/models", key=key, headers=[("X-Forwarded-For", address)])


MODELS = request("GET", "/v1/models", key=KEY)


class TestJ1Addresses:
    """GCRA per address: the burst is exact, Retry-After is right, and no way around it is open."""

    @pytest.mark.parametrize("burst", [1, 2, 7, 40])
    async def test_J1_the_edge_of_the_burst(self, burst: int) -> None:
        async with metered(rate_limit_per_second=1, rate_limit_burst=burst) as (gw, _, client):
            assert await statuses(client, MODELS, burst + 3) == [200] * burst + [429] * 3
            assert gw.stats.limited_ip == 3

    async def test_J1_sleeping_as_long_as_retry_after_admits_exactly_one(self) -> None:
        async with metered(rate_limit_per_second=2, rate_limit_burst=3) as (gw, _, client):
            refused = (await answers(client, MODELS * 4, 4))[3]
            assert_limited(refused, "rate_limit_exceeded")
            wait_ms = int(refused.header("retry-after-ms") or "")
            assert 0 < wait_ms <= 500
            assert refused.header("retry-after") == "1"
            await wait_as_told(refused)
            began = monotonic()
            admitted = (await statuses(client, MODELS, 3)).count(200)
            assert 1 <= admitted <= 1 + (monotonic() - began) * 2
            assert gw.stats.limited_ip == 4 - admitted

    async def test_J1_a_second_early_is_told_less(self) -> None:
        """The wait that is told shrinks as time passes."""
        async with metered(rate_limit_per_second=1, rate_limit_burst=1) as (_, _, client):
            first = (await answers(client, MODELS * 2, 2))[1]
            await asyncio.sleep(0.302)  # both are told in whole milliseconds
            second = await ask(client, MODELS)
            told = [int(one.header("retry-after-ms") or "") for one in (first, second)]
            assert 900 < told[0] <= 1000
            assert told[1] <= told[0] - 300

    async def test_J1_limits_hold_across_connections(self) -> None:
        async with metered(rate_limit_per_second=1, rate_limit_burst=10) as (gw, _, client):
            others = [await gw.client() for _ in range(5)]
            began = monotonic()
            turns = [statuses(one, MODELS, 4) for one in (client, *others)]
            seen = [status for turn in await asyncio.gather(*turns) for status in turn]
            assert 10 <= seen.count(200) <= 10 + (monotonic() - began)
            assert seen.count(200) + seen.count(429) == 24
            for one in others:
                one.close()

    async def test_J1_a_new_connection_for_each_request_does_not_help(self) -> None:
        async with metered(rate_limit_per_second=1, rate_limit_burst=5) as (gw, _, _):
            began = monotonic()
            seen = [(await once(gw, MODELS)).status for _ in range(15)]
            assert 5 <= seen.count(200) <= 5 + (monotonic() - began)

    async def test_J1_a_flood_of_wrong_keys_is_limited_before_they_are_looked_at(self) -> None:
        async with metered(rate_limit_per_second=1, rate_limit_burst=6) as (gw, sim, client):
            flood = b"".join(say(1, key=f"sk-wrong-{turn}") for turn in range(8))
            seen = [answer.status for answer in await answers(client, flood + say(1), 9)]
            assert seen == [401] * 6 + [429] * 3, "the right key behind the flood is refused with it"
            assert gw.stats.auth_failures == 6
            assert posts(sim) == []

    async def test_J1_heads_that_differ_and_heads_that_do_not_count_alike(self) -> None:
        """A connection's usual head is judged once; the limit is looked at each time."""
        async with metered(rate_limit_per_second=1, rate_limit_burst=8) as (_, sim, client):
            mixed = b"".join((say(1), say(1), say(1, content=f"Turn {turn}"), MODELS)[turn % 4] for turn in range(12))
            assert [answer.status for answer in await answers(client, mixed, 12)] == [200] * 8 + [429] * 4
            assert len(posts(sim)) == 6

    async def test_J1_unknown_paths_and_other_methods_count_too(self) -> None:
        async with metered(rate_limit_per_second=1, rate_limit_burst=3) as (_, _, client):
            data = request("GET", "/nowhere") + request("DELETE", "/v1/models", key=KEY) + request("OPTIONS", "/v1/models")
            seen = [answer.status for answer in await answers(client, data + MODELS, 4)]
            assert seen == [404, 405, 204, 429]

    async def test_J1_probes_of_health_are_free(self) -> None:
        async with metered(rate_limit_per_second=1, rate_limit_burst=1) as (_, _, client):
            assert await statuses(client, MODELS, 2) == [200, 429]
            for path in ("/health", "/healthz", "/liveness", "/readiness", "/ready"):
                assert await statuses(client, request("GET", path), 5) == [200] * 5, path
            assert (await ask(client, MODELS)).status == 429

    async def test_J1_a_unix_socket_has_no_address(self, tmp_path: Path) -> None:
        path = str(tmp_path / "gw.sock")
        async with metered(rate_limit_per_second=1, rate_limit_burst=1, unix_socket=path), RawClient.connect(path) as client:
            assert await statuses(client, MODELS, 20) == [200] * 20

    async def test_J1_a_refused_body_is_read_over_and_the_connection_goes_on(self) -> None:
        async with metered(rate_limit_per_second=2, rate_limit_burst=1) as (_, sim, client):
            seen = await answers(client, say(1) + say(1, content="x" * 20_000) + request("GET", "/healthz"), 3)
            assert [answer.status for answer in seen] == [200, 429, 200]
            await wait_as_told(seen[1])
            assert (await ask(client, say(1))).status == 200
            assert len(posts(sim)) == 2


class TestJ1Networks:
    """Behind a trusted proxy each client has its own limit; an IPv6 client is its /64."""

    async def test_J1_an_ipv6_client_that_changes_its_address_stays_one(self) -> None:
        settings = {"trusted_proxies": ["127.0.0.1/32"], "rate_limit_per_second": 1, "rate_limit_burst": 5}
        async with metered(**settings) as (gw, _, client):
            flood = b"".join(from_host(f"2001:db8:1:2:{host:x}::{host:x}") for host in range(1, 15))
            assert [answer.status for answer in await answers(client, flood, 14)] == [200] * 5 + [429] * 9
            # The network beside it is another subscriber.
            assert (await ask(client, from_host("2001:db8:1:3::1"))).status == 200
            assert len(meters(gw)) == 2

    async def test_J1_clients_of_one_proxy_connection_are_told_apart(self) -> None:
        settings = {"trusted_proxies": ["127.0.0.1/32"], "rate_limit_per_second": 1, "rate_limit_burst": 3}
        async with metered(**settings) as (_, _, client):
            turns = b"".join(from_host(("192.0.2.1", "192.0.2.2")[turn % 2]) for turn in range(10))
            assert [answer.status for answer in await answers(client, turns, 10)] == [200] * 6 + [429] * 4
            mapped = await answers(client, from_host("::ffff:192.0.2.1") + from_host("192.0.2.3"), 2)
            assert [answer.status for answer in mapped] == [429, 200]

    async def test_J1_who_is_no_trusted_proxy_cannot_choose_an_address(self) -> None:
        async with metered(rate_limit_per_second=1, rate_limit_burst=3) as (gw, _, client):
            flood = b"".join(from_host(f"192.0.2.{host}") for host in range(1, 11))
            assert [answer.status for answer in await answers(client, flood, 10)] == [200] * 3 + [429] * 7
            assert len(meters(gw)) == 1

    async def test_J1_a_client_behind_the_proxy_cannot_put_itself_before_it(self) -> None:
        """The proxy appends what it saw: of ``X-Forwarded-For`` the last address that is no proxy counts."""
        settings = {"trusted_proxies": ["127.0.0.1/32"], "rate_limit_per_second": 1, "rate_limit_burst": 3}
        async with metered(**settings) as (_, _, client):
            flood = b"".join(from_host(f"192.0.2.{host}, 198.51.100.7") for host in range(1, 11))
            assert [answer.status for answer in await answers(client, flood, 10)] == [200] * 3 + [429] * 7

    async def test_J1_idle_addresses_leave_memory_and_a_kept_connection_is_counted_on(self) -> None:
        settings = {"trusted_proxies": ["127.0.0.1/32"], "rate_limit_per_second": 50, "rate_limit_burst": 5}
        async with metered(**settings) as (gw, _, client):
            crowd = b"".join(from_host(f"10.0.{host >> 8}.{host & 255}") for host in range(300))
            assert {answer.status for answer in await answers(client, say(1) + crowd, 301)} == {200}
            assert len(meters(gw)) > 1
            await gw.until("idle addresses left", lambda: len(meters(gw)) == 0, 3.0)
            # The connection had its address's meter at hand; what it holds now must count for the others too.
            first = [answer.status for answer in await answers(client, say(1) * 4, 4)]
            async with RawClient.connect(gw.url) as other:
                second = [answer.status for answer in await answers(other, say(1) * 10, 10)]
            assert first == [200] * 4
            assert 429 in second
            assert len(meters(gw)) <= 1


class TestS202:
    """S2.2: by address, 1000 a second unless told otherwise, 429 rate_limit_error with Retry-After, 0 = off."""

    async def test_S2_02_the_default_is_a_thousand_a_second(self) -> None:
        assert Config().rate_limit_per_second == 1000
        async with metered(rate_limit_per_second=1000) as (_, _, client):
            began = monotonic()
            seen = [(await client.ask(request("GET", "/nowhere"))).status for _ in range(2500)]
            admitted = seen.count(404)
            assert 1000 <= admitted <= 1001 + (monotonic() - began) * 1000
            assert admitted + seen.count(429) == 2500

    async def test_S2_02_RATE_LIMIT_PER_SECOND_sets_it(self) -> None:
        environ = {"FASTGW_COMPAT": "llm-stack", "GATEWAY_API_KEYS": KEY, "RATE_LIMIT_PER_SECOND": "3"}
        async with Simulator() as sim, under({**environ, "VLLM_URL": sim.url}) as gw, RawClient.connect(gw.url) as client:
            seen = await answers(client, MODELS * 5, 5)
            assert [answer.status for answer in seen] == [200] * 3 + [429] * 2
            assert_limited(seen[4], "rate_limit_exceeded")
            assert seen[4].header("retry-after") == "1"
            assert KEY not in seen[4].body.decode()
            assert [record["error"] for record in gw.records] == [""] * 3 + ["rate_limit_exceeded"] * 2

    async def test_S2_02_zero_is_off(self) -> None:
        environ = {"FASTGW_COMPAT": "llm-stack", "GATEWAY_API_KEYS": KEY, "RATE_LIMIT_PER_SECOND": "0"}
        async with Simulator() as sim, under({**environ, "VLLM_URL": sim.url}) as gw, RawClient.connect(gw.url) as client:
            assert set(await statuses(client, request("GET", "/nowhere"), 1500)) == {404}


class TestJ1Keys:
    """Requests per minute with one key: its own meter, told in every answer."""

    async def test_J1_the_edge_of_a_keys_burst(self) -> None:
        async with metered(rate_limit_per_minute=60, key_burst=5) as (gw, sim, client):
            seen = await answers(client, say(1) * 8, 8)
            assert [answer.status for answer in seen[:5]] == [200] * 5
            assert [answer.status for answer in seen].count(429) >= 2
            refused = next(answer for answer in seen if answer.status == 429)
            assert_limited(refused, "rate_limit_exceeded")
            assert refused.header("retry-after") == "1"
            assert 0 < int(refused.header("retry-after-ms") or "") <= 1000
            assert gw.stats.limited_requests == 8 - len(posts(sim))
            # Another key has lost nothing.
            assert (await ask(client, say(1, key=OTHER_KEY))).status == 200

    async def test_J1_what_is_left_stands_in_every_answer(self) -> None:
        async with metered(rate_limit_per_minute=6, key_burst=5) as (_, _, client):
            seen = await answers(client, say(1) + say(1, stream=True) + say(1, fault="status=500") + say(1) * 3, 6)
            assert [answer.status for answer in seen] == [200, 200, 500, 200, 200, 429]
            assert [left(answer, "requests") for answer in seen] == [4, 3, 2, 1, 0, 0]
            assert {answer.header("x-ratelimit-limit-requests") for answer in seen} == {"6"}
            for answer in seen:
                assert re.fullmatch(r"(\d+m)?\d+s|\d+ms", answer.header("x-ratelimit-reset-requests") or "")
                assert answer.header("x-ratelimit-limit-tokens") is None, "no limit, no lines"
            assert seen[0].header("x-ratelimit-reset-requests") == "10s"
            assert seen[4].header("x-ratelimit-reset-requests") in ("50s", "49s")

    async def test_J1_without_a_limit_there_are_no_such_fields(self) -> None:
        async with metered() as (_, _, client):
            answer = await ask(client, say(1))
            assert not [name for name, _ in answer.headers if name.startswith("x-ratelimit")]

    async def test_J1_what_the_gateway_answers_itself_costs_nothing(self) -> None:
        async with metered(rate_limit_per_minute=6, key_burst=2) as (gw, _, client):
            assert await statuses(client, MODELS + request("GET", "/v1/usage", key=KEY), 1) == [200]
            await client.read_response()
            for path in ("/v1/models", "/v1/models/sim", "/v1/usage", "/health"):
                assert await statuses(client, request("GET", path, key=KEY), 10) == [200] * 10, path
            assert await statuses(client, say(1), 3) == [200, 200, 429]
            assert await statuses(client, MODELS, 5) == [200] * 5, "nor is it refused when the key has used all"
            found = await usage_of(gw)
            assert (found["requests_per_minute"], found["requests_remaining"]) == (6, 0)

    async def test_J1_sleeping_as_long_as_a_key_is_told_admits(self) -> None:
        async with metered(rate_limit_per_minute=120, key_burst=2) as (_, _, client):
            refused = (await answers(client, say(1) * 3, 3))[2]
            assert refused.status == 429
            await wait_as_told(refused)
            assert (await ask(client, say(1))).status == 200

    async def test_J1_a_key_is_one_on_all_connections(self) -> None:
        async with metered(rate_limit_per_minute=6, key_burst=10) as (gw, sim, _):
            clients = [await gw.client() for _ in range(8)]
            await asyncio.gather(*[answers(one, say(1) * 4, 4) for one in clients])
            assert len(posts(sim)) == 10
            for one in clients:
                one.close()

    async def test_J1_requests_refused_for_other_reasons_have_been_counted(self) -> None:
        """Who sends rubbish has sent a request; who has no key has none to count it for."""
        async with metered(rate_limit_per_minute=6, key_burst=3) as (_, _, client):
            bad = chat(body=b"{", key=KEY)
            assert [answer.status for answer in await answers(client, say(key="sk-no") + bad * 2 + say(1) * 2, 5)] == [
                401, 400, 400, 200, 429,
            ]  # fmt: skip

    async def test_J1_the_sdk_reads_the_limits(self) -> None:
        """``with_raw_response``: what OpenAI's clients look at before they go on, and what they raise."""
        async with metered(rate_limit_per_minute=6, key_burst=2, tokens_per_minute=6000) as (gw, sim, _):
            async with AsyncOpenAI(base_url=gw.url + "/v1", api_key=KEY, max_retries=0, timeout=10.0) as client:
                create = client.chat.completions.with_raw_response.create
                raw = await create(model="sim", messages=MESSAGES, max_tokens=5)
                assert raw.parse().choices[0].finish_reason == "length"
                assert raw.headers["x-ratelimit-limit-requests"] == "6"
                assert raw.headers["x-ratelimit-remaining-requests"] == "1"
                assert raw.headers["x-ratelimit-reset-requests"] == "10s"
                assert raw.headers["x-ratelimit-limit-tokens"] == "6000"
                taken = prompt_estimate(posts(sim)[0].body) + 5
                assert int(raw.headers["x-ratelimit-remaining-tokens"]) == 6000 - taken
                assert re.fullmatch(r"\d+ms", raw.headers["x-ratelimit-reset-tokens"])
                await create(model="sim", messages=MESSAGES, max_tokens=5)
                with pytest.raises(RateLimitError) as caught:
                    await create(model="sim", messages=MESSAGES, max_tokens=5)
            assert caught.value.status_code == 429
            assert caught.value.code == "rate_limit_exceeded"
            assert caught.value.type == "rate_limit_error"
            assert 5 < int(caught.value.response.headers["retry-after"]) <= 10

    async def test_J1_the_sdk_waits_as_long_as_it_is_told_and_succeeds(self) -> None:
        async with metered(rate_limit_per_minute=120, key_burst=1) as (gw, sim, _):
            async with AsyncOpenAI(base_url=gw.url + "/v1", api_key=KEY, max_retries=2, timeout=10.0) as client:
                began = monotonic()
                for _ in range(2):
                    await client.chat.completions.create(model="sim", messages=MESSAGES, max_tokens=1)
                took = monotonic() - began
            assert len(posts(sim)) == 2
            assert 0.3 < took < 5.0
