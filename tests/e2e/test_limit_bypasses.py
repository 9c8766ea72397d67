"""Ways around the limits that somebody would try: requests that want more than their key may have, or others to have less."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256
from time import time
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.config import RouteConfig
from fastgw.limits.key import KeyRecord
from fastgw.sim import ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from tests.native.test_stress import UPGRADE
from tests.support.client import RawClient, chat, request
from tests.support.gateway import Running, running
from tests.support.ports import closed_port

KEY = "sk-the-key-in-question"
FORM = [("Content-Type", "multipart/form-data; boundary=b")]


def part(name: str, value: bytes, extra: str = "") -> bytes:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + value + b"\r\n"


def upload(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--b--\r\n"


def give(gw: Running, key: str = KEY, **fields: Any) -> None:
    """What the store would do when an operator has set ``fields`` of ``key``."""
    digest = sha256(key.encode()).digest()
    keeping = gw.gateway._keeping
    assert keeping is not None
    keeping.keys_changed([KeyRecord(id="key_" + digest.hex()[:16], digest=digest, created_at=1.0, **fields)])


async def status_of(client: RawClient, data: bytes) -> int:
    await client.send(data)
    answer = await client.read_response(5.0)
    assert answer.complete
    return answer.status


class TestUploads:
    async def test_S2_03_a_key_in_debt_begins_no_upload(self) -> None:
        """What an upload costs nobody knows before its end; but who owes tokens does not begin another."""
        async with Simulator(SimConfig()) as sim, running([sim.url], api_keys=(KEY,), tokens_per_minute=600) as gw:
            form = upload(part("model", b"sim"), part("file", b"a" * 200, '; filename="a"'))
            data = request("POST", "/v1/audio/transcriptions", headers=FORM, body=form, key=KEY)
            async with RawClient.connect(gw.url) as client:
                assert await status_of(client, data) == 200
                assert await status_of(client, chat("sim", content="x" * 100, max_tokens=20, key=KEY)) == 200
                core = gw.gateway.core
                assert core is not None
                account = core.accounts.find(sha256(KEY.encode()).digest())
                assert account is not None
                assert account.tokens is not None
                account.tokens.charge(account.tokens.at_us, 10_000)
                await client.send(data)
                answer = await client.read_response()
                assert answer.status == 429
                assert int(answer.header("retry-after") or 0) >= 1

    @pytest.mark.parametrize("allowed", [("sim",), None])
    @pytest.mark.parametrize("again", [b"secret", b"sim"])
    async def test_S5_09_a_second_model_behind_the_file_reaches_no_engine(
        self, again: bytes, allowed: tuple[str, ...] | None
    ) -> None:
        """A request is judged by the first field; frameworks take the last. Whatever the key may use."""
        seen = bytearray()

        async def engine(conn: ScriptedConnection) -> None:
            while True:
                seen.extend(await conn.read_some())

        async with (
            ScriptedEngine(engine) as scripted,
            running([EngineConfig(url=scripted.url, models=("sim", "secret"))], health_interval_s=60.0) as gw,
        ):
            if allowed is not None:
                give(gw, models=allowed)
            first = part("model", b"sim") + part("file", b"a" * 200_000, '; filename="a"')
            form = first + part("model", again) + b"--b--\r\n"
            data = request("POST", "/v1/audio/transcriptions", headers=FORM, body=form, key=KEY)
            async with RawClient.connect(gw.url) as client:
                await client.send(data[:100_000])
                await gw.until("the engine has the beginning", lambda: b'name="file"' in seen)
                await client.send(data[100_000:])
                answer = await client.read_response(5.0)
                assert answer.status == 400
            assert seen.count(b'name="model"') == 1

    async def test_J9_what_is_kept_of_an_upload_counts_among_the_bytes_that_wait(self) -> None:
        async with Simulator(SimConfig(ttft_ms=500.0)) as sim, running([sim.url], max_concurrent=1) as gw:
            queue = gw.gateway._queue
            assert queue is not None
            async with RawClient.connect(gw.url) as busy, RawClient.connect(gw.url) as client:
                await busy.send(chat("sim", max_tokens=1))
                await gw.until("it is under way", lambda: sim.state.running == 1)
                form = part("model", b"sim") + part("file", b"a" * 30_000, '; filename="a"')
                whole = request("POST", "/v1/audio/transcriptions", headers=FORM, body=form + b"a" * 30_000, key=None)
                await client.send(whole[:-30_000])
                await gw.until("it waits", lambda: queue.waiting == 1)
                assert queue.waiting_bytes > 10_000
                client.reset()
                await gw.until("nobody waits", lambda: queue.waiting == 0)
                assert queue.waiting_bytes == 0
                assert (await busy.read_response()).status == 200


class TestKeysInUse:
    """A connection's head is judged once; what it was judged by may change."""

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            ({"disabled": True}, 401),
            ({"deleted": True}, 401),
            ({"expires_at": 1.0}, 401),
            ({"networks": ("10.0.0.0/8",)}, 403),
            ({"models": ("other",)}, 403),
            ({"requests_per_minute": 1}, 429),
            ({"tokens_per_minute": 1}, 429),
            ({"daily_tokens": 1}, 429),
        ],
        ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
    )
    async def test_S5_09_a_change_holds_for_the_next_request_of_a_connection(self, change: dict[str, Any], status: int) -> None:
        async with Simulator(SimConfig()) as sim, running([sim.url], require_key=True) as gw:
            give(gw)
            data = chat("sim", max_tokens=2, key=KEY)
            async with RawClient.connect(gw.url) as client:
                assert [await status_of(client, data) for _ in range(3)] == [200] * 3
                give(gw, **change)
                found = [await status_of(client, data) for _ in range(2)]
                assert found[-1] == status
                if status != 429:
                    assert found[0] == status

    async def test_a_key_ends_with_its_time_although_its_connection_goes_on(self) -> None:
        async with Simulator(SimConfig()) as sim, running([sim.url], require_key=True) as gw:
            give(gw, expires_at=time() + 0.3)
            data = chat("sim", max_tokens=2, key=KEY)
            async with RawClient.connect(gw.url) as client:
                assert await status_of(client, data) == 200
                await asyncio.sleep(0.65)
                assert await status_of(client, data) == 401

    async def test_another_case_is_another_key(self) -> None:
        async with (
            Simulator(SimConfig()) as sim,
            running([sim.url], api_keys=(KEY,)) as gw,
            RawClient.connect(gw.url) as client,
        ):
            for key, status in ((KEY, 200), (KEY.upper(), 401), (KEY + " x", 401), (KEY[:-1], 401)):
                assert await status_of(client, chat("sim", max_tokens=1, key=key)) == status

    async def test_two_gateways_in_one_process_know_nothing_of_each_other(self) -> None:
        async with Simulator(SimConfig()) as sim:
            limits: dict[str, Any] = {"rate_limit_per_minute": 2, "max_concurrent": 1}
            async with (
                running([sim.url], api_keys=(KEY,), **limits) as one,
                running([sim.url], api_keys=("sk-b",)) as two,
                RawClient.connect(one.url) as first,
                RawClient.connect(two.url) as second,
            ):
                data = chat("sim", max_tokens=1, key=KEY)
                assert [await status_of(first, data) for _ in range(3)] == [200, 200, 429]
                assert await status_of(second, data) == 401
                data = chat("sim", max_tokens=1, key="sk-b")
                assert [await status_of(second, data) for _ in range(3)] == [200, 200, 200]


class TestTunnels:
    @pytest.mark.parametrize(
        ("query", "status"),
        [
            ("model=sim", 101),
            ("model=secret", 403),
            ("model=sim&model=secret", 400),
            ("model=sim&mod%65l=secret", 400),
            ("model=sim&model=", 400),
            ("model=sim;model=secret", 400),
            ("Model=sim", 400),
            ("model=sim&Model=secret", 400),
            ("model=sim&%4dODEL=secret", 400),
            ("model=sim&model[]=secret", 400),
            ("model=sim&+model=secret", 400),
            ("model=sim&x=%", 101),
            ("model=sim&%=x", 400),
            ("model=s%69m", 101),
            ("model=sim%0a", 400),
            ("", 403),
            ("&".join(["a=1"] * 40 + ["model=sim"]), 400),
        ],
    )
    async def test_S5_09_a_session_is_for_one_model_that_the_key_may_use(self, query: str, status: int) -> None:
        async with (
            Simulator(SimConfig(models=("sim", "secret"))) as sim,
            running([EngineConfig(url=sim.url)], require_key=True) as gw,
            RawClient.connect(gw.url) as client,
        ):
            give(gw, models=("sim",))
            await client.send(request("GET", f"/v1/realtime?{query}", headers=UPGRADE, key=KEY))
            head = await client.read_head(5.0)
            assert head.status == status


class TestBodies:
    @pytest.mark.parametrize(
        ("more", "status"),
        [
            (b"", 200),
            (b',"Model":"secret"', 400),
            (b',"MODEL":"sim"', 400),
            (b',"\\u004dodel":"secret"', 400),
            (b',"model":"secret"', 400),
            (b',"tools":[{"Model":"a schema of its own"}]', 200),
            (b',"user":"\\u0041 \\"Model\\""', 200),
        ],
    )
    async def test_S5_09_no_second_model_in_another_case(self, more: bytes, status: int) -> None:
        """Go's JSON reader, and so Ollama, matches names of fields in any case."""
        async with (
            Simulator(SimConfig(models=("sim", "secret"))) as sim,
            running([EngineConfig(url=sim.url)], require_key=True) as gw,
            RawClient.connect(gw.url) as client,
        ):
            give(gw, models=("sim",))
            body = b'{"model":"sim","messages":[{"role":"user","content":"x"}],"max_tokens":2' + more + b"}"
            assert await status_of(client, chat("sim", body=body, key=KEY)) == status


class TestFigures:
    async def test_pipelined_requests_are_counted_one_by_one(self) -> None:
        async with Simulator(SimConfig()) as sim, running([sim.url], api_keys=(KEY,), rate_limit_per_minute=10) as gw:
            async with RawClient.connect(gw.url) as client:
                await client.send(chat("sim", max_tokens=1, key=KEY) * 30)
                found = [(await client.read_response()).status for _ in range(20)]
                assert found == [200] * 10 + [429] * 10
                assert await client.read_until_closed() == (b"", "fin"), "who is refused time and again is sent away"
            assert sum(one.method == "POST" for one in sim.requests) == 10

    @pytest.mark.parametrize("figure", [-(2**63), -5, 0, 2**31, 2**62, 2**63, 10**30])
    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "n"])
    async def test_S2_03_no_figure_is_an_internal_error_or_a_free_request(self, field: str, figure: int) -> None:
        limits: dict[str, Any] = {"tokens_per_minute": 1000, "daily_token_quota": 5000, "default_cost_tokens": 50}
        async with Simulator(SimConfig()) as sim, running([sim.url], api_keys=(KEY,), **limits) as gw:
            core = gw.gateway.core
            assert core is not None
            account = core.accounts.find(sha256(KEY.encode()).digest())
            assert account is not None
            async with RawClient.connect(gw.url) as client:
                for stream in (False, True):
                    status = await status_of(client, chat("sim", stream, key=KEY, **{field: figure}))
                    assert status in ((200, 400, 422, 429) if figure < 2**31 else (400, 422, 429))
            await gw.idle()
            assert (account.ledger.reserved, account.inflight) == (0, 0)
            assert 0 <= account.ledger.prompt + account.ledger.completion <= 1000

    @pytest.mark.parametrize("figure", [10**12 - 1, 2**62, 2**63 - 1, -(2**63), 2**70])
    async def test_J7_an_engine_that_counts_nonsense_takes_nothing_along(self, figure: int) -> None:
        """Its figures are taken up to a bound; the key's other requests, and the gateway's sums, stay what they were."""
        usage = b'"usage":{"prompt_tokens":%d,"completion_tokens":%d}' % (figure, figure)
        event = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}],%b}\n\ndata: [DONE]\n\n' % usage

        async def engine(conn: ScriptedConnection) -> None:
            while True:
                seen = await conn.read_request()
                if seen.method == b"GET":
                    await conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                    continue
                body, kind = (event, b"text/event-stream") if b'"stream":true' in seen.body.replace(b" ", b"") else (
                    b'{"choices":[],%b}' % usage, b"application/json")  # fmt: skip
                head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
                await conn.send(head % (kind, len(body)) + body)

        limits = {"tokens_per_minute": 10**6, "daily_token_quota": 10**15}
        async with ScriptedEngine(engine) as one, running([one.url], api_keys=(KEY,), **limits) as gw:
            core = gw.gateway.core
            assert core is not None
            account = core.accounts.find(sha256(KEY.encode()).digest())
            assert account is not None
            for stream in (False, True):
                async with RawClient.connect(gw.url) as client:
                    assert await status_of(client, chat("m", stream, key=KEY)) in (200, 429)
                await gw.idle()
            ledger = account.ledger
            assert (ledger.reserved, account.inflight) == (0, 0)
            assert 0 <= ledger.prompt + ledger.completion <= 4 * 10**12
            assert 0 <= gw.stats.tokens_prompted + gw.stats.tokens_generated <= 4 * 10**12

    @pytest.mark.parametrize(
        ("prompt", "prompts"),
        [
            ("one", 1),
            (["one"] * 40, 40),
            (['quoted "', "\\", '\\"', "[", "]"] * 8, 40),
            ([[1, 2, 3]] * 40, 40),
            ([1, 2, 3] * 40, 1),
            ([], 1),
        ],
    )
    async def test_S2_03_each_prompt_of_a_list_has_an_answer_of_its_own(self, prompt: Any, prompts: int) -> None:
        """Forty prompts of ten tokens each would otherwise pass for one, and go through as many limits."""
        limits: dict[str, Any] = {"tokens_per_minute": 100_000, "daily_token_quota": 200}
        async with Simulator(SimConfig()) as sim, running([sim.url], api_keys=(KEY,), **limits) as gw:
            body = json.dumps({"model": "sim", "max_tokens": 10, "prompt": prompt}).replace("[", "[" + " " * 90, 1)
            lines = [("Content-Type", "application/json")]
            data = request("POST", "/v1/completions", headers=lines, body=body.encode(), key=KEY)
            async with RawClient.connect(gw.url) as client:
                await client.send(data)
                answer = await client.read_response()
            assert (answer.status == 429) == (prompts == 40)
            if prompts == 40:
                assert b"request_exceeds_limit" in answer.body


@pytest.mark.together
class TestEngines:
    async def test_who_leaves_an_engine_that_works_on_has_it_under_way_still(self) -> None:
        """An engine that cannot bear an abort: leaving and asking again would put a hundred requests there with one place."""
        async with (
            Simulator(SimConfig(ttft_ms=300.0)) as sim,
            running([EngineConfig(url=sim.url, cancel=False)], key_concurrency=1) as gw,
        ):
            for _ in range(5):
                client = await gw.client()
                await client.send(chat("sim", max_tokens=1))
                await asyncio.sleep(0.02)
                client.reset()
            await gw.idle()
            core = gw.gateway.core
            assert core is not None
            assert (sim.state.running, core.accounts.anonymous.inflight) == (1, 1)
            async with RawClient.connect(gw.url) as patient:
                assert await status_of(patient, chat("sim", max_tokens=1)) == 200
            await gw.until("the first has ended", lambda: not core.unread, 10.0)
            assert core.accounts.anonymous.inflight == 0

    async def test_J8_a_replayed_probe_is_still_the_only_one(self) -> None:
        """The half-open breaker lets one request through, and its idle connection turns out to be dead."""
        arrived, go_on = asyncio.Event(), asyncio.Event()

        def answer(status: bytes) -> bytes:
            return b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}" % status

        async def engine(conn: ScriptedConnection) -> None:
            served = 0
            while True:
                seen = await conn.read_request()
                if b"stale" in seen.body:
                    if served:
                        conn.close()
                        return
                    arrived.set()
                    await go_on.wait()
                served += 1
                await conn.send(answer(b"500 No" if b"bad" in seen.body else b"200 OK"))

        async with ScriptedEngine(engine) as scripted:
            settings: dict[str, Any] = {"cb_failure_threshold": 1, "cb_recovery_timeout_s": 0.1, "health_interval_s": 60.0}
            async with (
                running([EngineConfig(url=scripted.url, models=("sim",))], **settings) as gw,
                RawClient.connect(gw.url) as client,
                RawClient.connect(gw.url) as other,
            ):
                assert await status_of(client, chat("sim", content="good")) == 200
                assert await status_of(client, chat("sim", content="bad")) == 500
                assert await status_of(client, chat("sim", content="good")) == 503
                await asyncio.sleep(0.15)
                await client.send(chat("sim", content="stale"))
                await asyncio.wait_for(arrived.wait(), 5.0)
                assert gw.stats.replays_total == 1
                await other.send(chat("sim", content="good"))
                refused = await other.read_response(5.0)
                assert (refused.status, b"circuit_open" in refused.body) == (503, True)
                go_on.set()
                assert (await client.read_response(5.0)).status == 200
                assert await status_of(other, chat("sim", content="good")) == 200

    async def test_a_route_that_rejects_does_not_let_a_second_attempt_wait(self) -> None:
        """Its first engine is gone, its second is full: what the route says of that holds for it too."""
        async with Simulator(SimConfig(ttft_ms=400.0, models=("sim", "else"))) as sim:
            engines = [
                EngineConfig(url=f"http://127.0.0.1:{closed_port()}", models=("sim",)),
                EngineConfig(url=sim.url, models=("sim", "else"), max_concurrent=1),
            ]
            settings: dict[str, Any] = {"policy": "ordered", "health_interval_s": 60.0, "health_unhealthy_after": 100}
            settings |= {"routes": (RouteConfig(model="sim", on_capacity="reject"),), "cb_failure_threshold": 0}
            async with running(engines, **settings) as gw:
                core = gw.gateway.core
                assert core is not None
                async with RawClient.connect(gw.url) as busy, RawClient.connect(gw.url) as client:
                    await busy.send(chat("else", max_tokens=1))
                    await gw.until("it is under way", lambda: sim.state.running == 1)
                    gone = core.table.pools[0].engine
                    await gw.until("its first probe is over", lambda: gone.probed_at > 0)
                    gone.healthy = None
                    await client.send(chat("sim", max_tokens=1))
                    answer = await client.read_response(5.0)
                    assert (answer.status, gw.stats.queue_waiting_open) == (429, 0)
                    assert (await busy.read_response()).status == 200
