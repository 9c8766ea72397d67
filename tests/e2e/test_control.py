"""The control listener beside live traffic: who gets in (D6), what its numbers say of limits, and what is told to nobody (D16).

What it answers to strange requests is the business of its own tests; here it is wired to a gateway that works.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastgw import Config, Gateway
from fastgw.app import StartError
from fastgw.sim import SimConfig, Simulator
from tests.e2e.durability import life
from tests.e2e.metered import ask, prompt_tokens, say
from tests.e2e.test_cases_d_secrets import D16_SETTINGS, Canaries, all_outcomes, text_of
from tests.support.client import NoResponse, RawClient, RawResponse, request
from tests.support.gateway import Running, running
from tests.support.probed import PROBED

pytestmark = pytest.mark.once  # the store and the control listener have no twins

ADMIN = "sk-admin-of-these-tests"
KEY = "sk-of-a-tenant"
PATHS = ("/admin", "/admin/", "/admin/keys", "/admin/keys/key_1", "/admin/keys/key_1/rotate", "/admin/audit", "/metrics")


async def once(url: str, data: bytes) -> RawResponse:
    async with RawClient.connect(url) as client:
        return await ask(client, data)


@asynccontextmanager
async def controlled(
    tmp_path: Path, sim: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[tuple[Running, Simulator, Meter]]:
    """A gateway with a store and a control listener, its engine, and the reader of its numbers."""
    settings = {
        "state_dir": str(tmp_path / "state"), "control_listen": "127.0.0.1:0", "admin_key": ADMIN, "api_keys": (KEY,),
        **settings,
    }  # fmt: skip
    async with Simulator(SimConfig(**(sim or {}))) as simulator, running([simulator.url], **settings) as gw:
        core = gw.gateway.core
        assert core is not None
        await gw.until("the engine is known", lambda: core.table.models)
        yield gw, simulator, Meter(gw.gateway.control_url)
        await gw.idle()


class Meter:
    """Reads ``/metrics``, as a scraper would, and says what has moved since it last looked."""

    def __init__(self, control: str) -> None:
        self.control = control
        self._last: dict[str, float] = {}

    async def read(self) -> dict[str, float]:
        """All samples, as ``name{label="value"}``; the text must be one that Prometheus takes."""
        answer = await once(self.control, request("GET", "/metrics"))
        assert answer.status == 200
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(answer.body.decode()):
            for sample in family.samples:
                labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()) if name != "engine")
                name = f"{sample.name}{{{labels}}}" if labels else sample.name
                assert name not in found, "one engine here, so each series once"
                found[name] = sample.value
        return found

    async def moved(self, *names: str) -> list[float]:
        """How much each has grown since the last call; of several by labels, all together."""
        last, self._last = self._last, await self.read()

        def of(told: dict[str, float], name: str) -> float:
            return sum(value for one, value in told.items() if one == name or one.startswith(name + "{"))

        return [of(self._last, name) - of(last, name) for name in names]

    async def until(self, name: str, value: float, timeout_s: float = 5.0) -> None:
        end = monotonic() + timeout_s
        while (found := (await self.read())[name]) != value:
            assert monotonic() < end, (name, found)
            await asyncio.sleep(0.02)


class TestD6:
    """What is the operator's needs the operator's key, on the operator's port."""

    async def test_D6_nothing_of_it_on_the_data_port(self, tmp_path: Path) -> None:
        async with controlled(tmp_path) as (gw, sim, _), RawClient.connect(gw.url) as client:
            made = await once(gw.gateway.control_url, request("POST", "/admin/keys", key=ADMIN, body=b"{}"))
            for path in PATHS:
                for key in (None, KEY, made.json()["key"], ADMIN):
                    for method in ("GET", "POST", "DELETE"):
                        answer = await ask(client, request(method, path, key=key, body=b"{}" if method == "POST" else None))
                        assert answer.status == 404, (method, path)
            assert {one.path for one in sim.requests} <= PROBED

    async def test_D6_nothing_of_the_engines_on_the_control_port(self, tmp_path: Path) -> None:
        async with controlled(tmp_path) as (_, sim, meter):
            for key in (None, KEY, ADMIN):
                assert (await once(meter.control, say(5, key=key))).status == 404
                assert (await once(meter.control, request("GET", "/v1/models", key=key))).status == 404
            assert not [one for one in sim.requests if one.method == "POST"]
            assert (await once(meter.control, request("GET", "/healthz"))).json() == {
                "status": "ok", "healthy_engines": 1, "total_engines": 1,
            }  # fmt: skip

    async def test_D6_without_an_admin_key_nobody_gets_in(self, tmp_path: Path) -> None:
        """Not even those who send an empty key, or a tenant's; numbers and health are there."""
        async with controlled(tmp_path, admin_key="") as (gw, _, meter):
            for path in PATHS[:-1]:
                for headers in ([], [("Authorization", "Bearer ")], [("Authorization", "Bearer None")]):
                    answer = await once(meter.control, request("GET", path, headers=headers))
                    assert (answer.status, answer.error["type"]) == (403, "permission_error")
                assert (await once(meter.control, request("POST", path, key=KEY, body=b"{}"))).status == 403
            assert (await once(meter.control, request("GET", "/metrics"))).status == 200
            core = gw.gateway.core
            assert core is not None
            assert len(core.accounts) == 1, "nothing was made"

    async def test_D6_keys_of_tenants_are_not_the_operators_and_his_is_no_tenants(self, tmp_path: Path) -> None:
        async with controlled(tmp_path) as (gw, _, meter):
            made = await once(meter.control, request("POST", "/admin/keys", key=ADMIN, body=b"{}"))
            assert made.status == 201
            for key in (KEY, made.json()["key"], None):
                answer = await once(meter.control, request("GET", "/admin/keys", key=key))
                assert answer.status == 401
                assert (answer.header("www-authenticate") or "").startswith("Bearer")
                assert made.json()["id"].encode() not in answer.body
            assert (await once(gw.url, say(5, key=ADMIN))).status == 401
            assert (await meter.moved("gateway_admin_auth_failures_total", "gateway_auth_failures_total")) == [3, 1]

    async def test_D6_without_control_listen_there_is_no_such_port(self, tmp_path: Path) -> None:
        async with Simulator() as sim, running([sim.url], admin_key=ADMIN, state_dir=str(tmp_path / "state")) as gw:
            assert gw.gateway.control_url == ""
            assert (await once(gw.url, request("GET", "/admin/keys", key=ADMIN))).status == 404

    async def test_D6_without_a_store_there_is_nothing_to_administer(self) -> None:
        settings: dict[str, Any] = {"control_listen": "127.0.0.1:0", "admin_key": ADMIN}
        async with Simulator() as sim, running([sim.url], **settings) as gw:
            answer = await once(gw.gateway.control_url, request("GET", "/admin/keys", key=ADMIN))
            assert answer.status == 404
            assert "FASTGW_STATE_DIR" in answer.error["message"]


class TestLifeTime:
    """It begins and ends with its gateway."""

    async def test_J4_a_control_port_that_is_taken_is_a_failed_start(self, tmp_path: Path) -> None:
        """Nothing is left half-started: the folder, the port and the loop are free again."""
        state: Any = {"state_dir": str(tmp_path / "state"), "admin_key": ADMIN}
        async with Simulator() as sim, running([sim.url], control_listen="127.0.0.1:0", admin_key=ADMIN) as gw:
            taken = gw.gateway.control_url.removeprefix("http://")
            gateway = Gateway(Config(port=0, control_listen=taken, **state))
            with pytest.raises(StartError, match="control"):
                await gateway.start()
            async with running([sim.url], control_listen="127.0.0.1:0", **state) as again:
                assert (await once(again.url, say(5, key=None))).status == 200

    async def test_S2_19_it_ends_with_its_gateway(self, tmp_path: Path) -> None:
        async with controlled(tmp_path) as (gw, _, meter), RawClient.connect(meter.control) as client:
            assert (await ask(client, request("GET", "/healthz"))).status == 200
            await gw.gateway.stop()
            with pytest.raises((NoResponse, OSError)):
                await ask(client, request("GET", "/healthz"))
            with pytest.raises(OSError, match="Connect call failed"):
                await once(meter.control, request("GET", "/healthz"))

    async def test_S2_19_many_changes_beside_traffic(self, tmp_path: Path) -> None:
        """A hundred keys made at once are all good at once; nobody else waits for it."""
        async with controlled(tmp_path) as (gw, _, meter):
            slowest = 0.0
            count = 0
            done = asyncio.Event()

            async def traffic() -> None:
                nonlocal slowest, count
                async with RawClient.connect(gw.url) as client:
                    while not done.is_set():
                        begin = monotonic()
                        assert (await ask(client, say(5, key=KEY))).status == 200
                        slowest = max(slowest, monotonic() - begin)
                        count += 1

            async def make(number: int) -> str:
                body = json.dumps({"name": f"n{number}", "tenant": "many"}).encode()
                answer = await once(meter.control, request("POST", "/admin/keys", key=ADMIN, body=body))
                assert answer.status == 201, answer.body
                text: str = answer.json()["key"]
                return text

            going = asyncio.create_task(traffic())
            rooms = asyncio.Semaphore(20)

            async def one(number: int) -> str:
                async with rooms:
                    return await make(number)

            made = await asyncio.gather(*(one(number) for number in range(100)))
            async with RawClient.connect(gw.url) as client:
                for text in made:
                    assert (await ask(client, say(1, key=text))).status == 200
            done.set()
            await going
            assert count > 20
            assert slowest < 0.5
            listed = await once(meter.control, request("GET", "/admin/keys?tenant=many&limit=1000", key=ADMIN))
            assert len(listed.json()["data"]) == 100


class TestMetrics:
    """What limits do is seen in numbers, each by the name that an alarm would have."""

    async def test_S2_11_rate_limits(self, tmp_path: Path) -> None:
        settings: dict[str, Any] = {"rate_limit_per_second": 1, "rate_limit_burst": 8}
        names = [f'gateway_rate_limited_total{{limit="{one}"}}' for one in ("ip", "requests", "tokens", "concurrency", "queue")]
        async with controlled(tmp_path, **settings) as (gw, _, meter):
            keys = []
            for fields in ({"requests_per_minute": 1}, {"tokens_per_minute": 50}):
                made = await once(meter.control, request("POST", "/admin/keys", key=ADMIN, body=json.dumps(fields).encode()))
                keys.append(made.json()["key"])
            await meter.moved()
            assert [(await once(gw.url, say(1, key=keys[0]))).status for _ in range(3)] == [200, 429, 429]
            assert await meter.moved(*names) == [0, 2, 0, 0, 0]
            assert (await once(gw.url, say(49, key=keys[1]))).status == 429
            assert await meter.moved(*names) == [0, 0, 1, 0, 0]
            statuses = [(await once(gw.url, say(1, key=KEY))).status for _ in range(20)]
            assert await meter.moved(*names) == [statuses.count(429), 0, 0, 0, 0]
            assert statuses.count(429) >= 12
            assert (await meter.read())["gateway_ip_meters"] == 1

    async def test_S2_11_tokens_and_quotas(self, tmp_path: Path) -> None:
        names = (
            "gateway_tokens_prompted_total", "gateway_tokens_generated_total", 'gateway_quota_exceeded_total{action="refused"}',
            'gateway_quota_exceeded_total{action="cut"}', "gateway_auth_failures_total", "gateway_requests_total",
        )  # fmt: skip
        async with controlled(tmp_path, daily_token_quota=300) as (gw, _, meter):
            await meter.moved()
            assert (await once(gw.url, say(7, key=KEY))).status == 200
            assert await meter.moved(*names) == [prompt_tokens(), 7, 0, 0, 0, 1]
            assert (await once(gw.url, say(1000, key=KEY))).status == 429
            assert (await once(gw.url, say(7, key="sk-wrong"))).status == 401
            assert await meter.moved(*names) == [0, 0, 1, 0, 1, 2]
            body = json.dumps({"daily_tokens": 300, "on_exhausted": "cut"}).encode()
            made = await once(meter.control, request("POST", "/admin/keys", key=ADMIN, body=body))
            cut = await once(gw.url, say(1000, stream=True, key=made.json()["key"]))
            assert cut.events()[-1] == "[DONE]"
            moved = await meter.moved(*names)
            assert moved[2:] == [0, 1, 0, 1]
            assert 200 <= moved[0] + moved[1] <= 310

    async def test_S2_11_queue_and_concurrency(self, tmp_path: Path) -> None:
        """Who waits, of which class, with how many bytes; who was turned away; who waited too long."""
        settings: dict[str, Any] = {"max_concurrent": 1, "queue_size": 2, "queue_timeout_s": 0.4, "cb_failure_threshold": 0}
        async with controlled(tmp_path, {"itl_ms": 20}, **settings) as (gw, _, meter), AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(RawClient.connect(gw.url)) for _ in range(3)]
            body = json.dumps({"priority": "low"}).encode()
            low = (await once(meter.control, request("POST", "/admin/keys", key=ADMIN, body=body))).json()["key"]
            await meter.moved()
            await clients[0].send(say(60, stream=True, key=KEY))
            head = await clients[0].read_head()
            assert (await meter.read())["gateway_engine_inflight"] == 1
            for client, key in zip(clients[1:], (KEY, low), strict=True):
                await client.send(say(1, key=key))
            await gw.until("both wait", lambda: gw.stats.queue_waiting_open == 2)
            now = await meter.read()
            waiting = [now[f'gateway_queue_waiting{{priority="{one}"}}'] for one in ("high", "normal", "low")]
            assert waiting == [0, 1, 1]
            assert now["gateway_queue_bytes"] > 100
            assert now["gateway_active_requests"] == 3
            assert (await once(gw.url, say(1, key=KEY))).error["code"] == "queue_full"
            assert await meter.moved('gateway_rate_limited_total{limit="queue"}') == [1]
            for client in clients[1:]:
                assert (await client.read_response()).error["code"] == "queue_timeout"
            assert await meter.moved("gateway_queue_timeouts_total") == [2]
            await clients[0].read_body(head, 10.0)
            await gw.idle()
            now = await meter.read()
            assert (now["gateway_queue_bytes"], now["gateway_active_requests"], now["gateway_engine_inflight"]) == (0, 0, 0)

    async def test_S2_11_breaker(self, tmp_path: Path) -> None:
        """0 closed, 1 open, and closed again when a probe has gone well."""
        settings: dict[str, Any] = {"cb_failure_threshold": 2, "cb_recovery_timeout_s": 0.5}
        names = ("gateway_upstream_errors_total", "gateway_circuit_breaker_opened_total")
        async with controlled(tmp_path, **settings) as (gw, _, meter):
            await meter.moved()
            for expected in ([1, 0], [1, 1]):
                assert (await once(gw.url, say(1, key=KEY, fault="status=500"))).status == 500
                await gw.idle()
                assert await meter.moved(*names) == expected
            assert (await meter.read())["gateway_circuit_breaker_state"] == 1
            refused = await once(gw.url, say(1, key=KEY))
            assert (refused.status, refused.error["code"]) == (503, "circuit_open")
            assert (await meter.read())["gateway_engine_healthy"] == 1
            end = monotonic() + 5
            while (await once(gw.url, say(1, key=KEY))).status != 200:
                assert monotonic() < end
                await asyncio.sleep(0.05)
            await meter.until("gateway_circuit_breaker_state", 0)
            assert await meter.moved(*names) == [0, 0]


class TestD16:
    """The operator's key, the tenants' keys and what they say stay nowhere, with the store and the admin API in use."""

    @pytest.mark.deadline_s(60)
    async def test_D16_with_a_store_and_an_admin_api(self, tmp_path: Path) -> None:
        canary = Canaries()
        wrong_admin = f"sk-canary{secrets.token_hex(8)}"
        async with Simulator(SimConfig(any_model=True, output_tokens=4)) as sim:
            env: Any = {
                **{f"FASTGW_{name.upper()}": str(value) for name, value in D16_SETTINGS.items()},
                "BACKENDS": f"{sim.url}|{canary.engine_key}|m", "ADMIN_KEY": canary.admin_key, "FASTGW_ACCESS_LOG": "true",
                "FASTGW_REQUIRE_KEY": "true", "FASTGW_LOG_FLOOD_RATE": "0",
            }  # fmt: skip
            async with life(tmp_path, sim.url, **env) as one:

                async def admin(method: str, path: str, document: object = None, key: str = canary.admin_key) -> RawResponse:
                    body = None if document is None else json.dumps(document).encode()
                    return await once(one.control, request(method, path, key=key, body=body))

                made = (await admin("POST", "/admin/keys", {"name": "ann"})).json()
                first = made["key"]
                canary.key = (await admin("POST", "/admin/keys/ann/rotate", {"grace_s": 3600})).json()["key"]
                texts = [first, canary.key]
                count = await all_outcomes(int(one.url.rpartition(":")[2]), canary)
                assert (await once(one.url, say(1, model="m", key=first))).status == 200
                refusals = [
                    await admin("GET", "/admin/keys", key=wrong_admin),
                    await admin("GET", "/admin/keys", key=first),
                    await admin("PATCH", "/admin/keys/ann", {"name": first}),
                    await admin("PATCH", "/admin/keys/ann", {canary.prompt: first}),
                    await admin("PATCH", f"/admin/keys/{first}", {"name": "x"}),
                    await admin("GET", f"/admin/keys?name={first}&name={first}"),
                    await once(one.control, request("POST", "/admin/keys", key=canary.admin_key, body=first.encode())),
                ]
                assert [answer.status for answer in refusals] == [401, 401, 400, 400, 404, 400, 400]
                told = [answer for answer in refusals if answer is not refusals[3]]  # that one quotes the field to its caller
                told += [await admin("GET", path) for path in ("/admin/keys", "/admin/keys/ann", "/admin/audit", "/metrics")]
                command_line = text_of(f"/proc/{one.process.pid}/cmdline")
                await asyncio.sleep(0.5)  # usage is written, the log too
                files = {path.name: path.read_bytes() for path in sorted(one.state.iterdir())}
                assert await one.end() == 0
            files |= {f"{path.name} at the end": path.read_bytes() for path in sorted(one.state.iterdir())}
            log = one.log.read_text()
        assert len([line for line in one.lines() if line["message"] == "request"]) == count + 1
        assert {line["action"] for line in one.lines() if line["message"] == "admin"} >= {
            "create",
            "rotate",
            "update",
            "denied",
        }
        assert "fastgw.db" in files
        assert any(name.startswith("fastgw.db-journal") for name in files)
        places = {
            "the log": log,
            "the command line": command_line,
            **{f"answer {number}": (answer.raw_head + answer.body).decode() for number, answer in enumerate(told)},
            **{name: held.decode("latin-1") for name, held in files.items()},
        }
        for where, text in places.items():
            canary.assert_absent(text, where)
        for secret in (*texts, wrong_admin):
            # Without the prefix that all keys have; and the form in which one could look for it elsewhere.
            for form in (secret[4:], sha256(secret.encode()).hexdigest()):
                assert not [where for where, text in places.items() if form in text]
