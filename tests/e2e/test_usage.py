"""What keys have used, as ``/v1/usage`` tells it (S2.8) and as the store keeps it (S2.3), and what of a key gets there (D3)."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from fastgw import EngineConfig
from fastgw.config import RouteConfig
from fastgw.config.paying import PriceConfig, TenantConfig
from fastgw.sim import SimConfig, Simulator
from fastgw.store import keys as stored
from fastgw.store.database import Database
from tests.e2e.metered import (
    CHAT,
    COMPLETIONS,
    CONTENT,
    KEY,
    MESSAGES,
    OTHER_KEY,
    RESPONSES,
    ask,
    assert_limited,
    estimate,
    metered,
    once,
    posts,
    prompt_tokens,
    say,
    usage_of,
)
from tests.reference.profile import under
from tests.support.client import RawClient, RawResponse, request
from tests.support.gateway import Running, running

PROFILE = {"FASTGW_COMPAT": "llm-stack", "GATEWAY_API_KEYS": f"{KEY},{OTHER_KEY}"}
JSON = [("Content-Type", "application/json")]
FIELDS = {
    "date", "prompt_tokens", "completion_tokens", "total_tokens", "estimated_tokens", "requests", "quota", "quota_remaining",
    "quota_reserved", "requests_under_way", "concurrency", "requests_per_minute", "requests_remaining", "tokens_per_minute",
    "tokens_remaining", "cached_tokens", "reasoning_tokens",
}  # fmt: skip


class TestS208:
    """S2.8: what the calling key has used today, and what it may."""

    async def test_S2_08_a_key_sees_its_day(self) -> None:
        async with metered(daily_token_quota=5000) as (gw, _, client):
            before = datetime.now(UTC).date().isoformat()
            assert (await usage_of(gw))["requests"] == 0
            assert (await ask(client, say(20))).status == 200
            assert (await ask(client, say(30, stream=True))).status == 200
            found = await usage_of(gw)
            after = datetime.now(UTC).date().isoformat()
        assert found.keys() == FIELDS
        assert found["date"] in (before, after)
        assert (found["prompt_tokens"], found["completion_tokens"]) == (2 * prompt_tokens(), 50)
        assert found["total_tokens"] == 2 * prompt_tokens() + 50
        assert (found["requests"], found["estimated_tokens"]) == (2, 0)
        assert (found["quota"], found["quota_remaining"]) == (5000, 5000 - 2 * prompt_tokens() - 50)
        assert all(type(value) is int for name, value in found.items() if name != "date")

    async def test_S2_08_minus_one_is_unlimited(self) -> None:
        async with metered() as (gw, _, client):
            await ask(client, say(20))
            found = await usage_of(gw)
        limits = ("quota", "quota_remaining", "concurrency", "requests_per_minute", "requests_remaining", "tokens_per_minute",
                  "tokens_remaining")  # fmt: skip
        assert {found[name] for name in limits} == {-1}
        assert found["completion_tokens"] == 20, "it is counted all the same"

    async def test_S2_08_each_key_sees_its_own(self) -> None:
        async with metered() as (gw, _, client):
            await ask(client, say(11) + say(22, key=OTHER_KEY))
            await client.read_response()
            assert [(await usage_of(gw, key))["completion_tokens"] for key in (KEY, OTHER_KEY)] == [11, 22]

    async def test_S2_08_nobody_sees_it_without_a_key(self) -> None:
        async with metered() as (gw, _, _):
            for key in (None, "sk-wrong"):
                answer = await once(gw, request("GET", "/v1/usage", key=key))
                assert answer.status == 401
                assert b"tokens" not in answer.body

    async def test_S2_08_an_open_gateway_counts_for_all(self) -> None:
        async with metered(api_keys=()) as (gw, _, client):
            await ask(client, say(5, key=None))
            await ask(client, say(6, key="sk-whoever"))
            assert (await usage_of(gw, None))["completion_tokens"] == 11

    async def test_S2_08_what_is_under_way_is_told(self) -> None:
        async with metered({"itl_ms": 3.0}, daily_token_quota=9000, key_concurrency=7) as (gw, _, _):
            async with RawClient.connect(gw.url) as client:
                await client.send(say(3000, stream=True))
                await client.read_until(await client.read_head(), b"data: ")
                found = await usage_of(gw)
                assert (found["requests_under_way"], found["concurrency"]) == (1, 7)
                assert found["quota_reserved"] == estimate() + 3000
                assert found["quota_remaining"] == 9000 - estimate() - 3000
                assert (found["requests"], found["total_tokens"]) == (0, 0), "a stream is charged when it has ended"
            await gw.idle()
            found = await usage_of(gw)
            assert (found["requests_under_way"], found["quota_reserved"], found["requests"]) == (0, 0, 1)

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("path", [CHAT, COMPLETIONS, MESSAGES, RESPONSES])
    async def test_S2_08_every_api_that_generates_is_counted_as_the_engine_counts(self, path: str, stream: bool) -> None:
        async with metered() as (gw, _, client):
            answer = await ask(client, say(17, path=path, stream=stream))
            assert (answer.status, answer.complete) == (200, True)
            found = await usage_of(gw)
        assert (found["prompt_tokens"], found["completion_tokens"]) == (prompt_tokens(path=path), 17)
        assert (found["requests"], found["estimated_tokens"]) == (1, 0)

    async def test_S2_08_embeddings_and_rankings_cost_their_prompts(self) -> None:
        async with metered(daily_token_quota=10_000) as (gw, sim, client):
            for path, fields in (
                ("/v1/embeddings", {"input": [CONTENT, CONTENT]}),
                ("/v1/rerank", {"query": CONTENT, "documents": [CONTENT]}),
                ("/v1/score", {"text_1": CONTENT, "text_2": CONTENT}),
            ):
                before = await usage_of(gw)
                body = json.dumps({"model": "sim", **fields}).encode()
                answer = await ask(client, request("POST", path, body=body, key=KEY, headers=JSON))
                assert answer.status == 200
                found = await usage_of(gw)
                used, charged = answer.json()["usage"], found["prompt_tokens"] - before["prompt_tokens"]
                assert charged == used["total_tokens"] > 0, path
                assert found["estimated_tokens"] == 0
                assert found["completion_tokens"] == 0, path
                assert found["requests"] - before["requests"] == 1
                assert found["quota_reserved"] == 0
            assert len(posts(sim)) == 3

    async def test_S2_08_an_upload_is_a_request_and_leaves_nothing_reserved(self) -> None:
        async with metered(daily_token_quota=10_000) as (gw, _, client):
            form = b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nsim\r\n'
            form += b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--x--\r\n'
            head = [("Content-Type", "multipart/form-data; boundary=x")]
            answer = await ask(client, request("POST", "/v1/audio/transcriptions", body=form, key=KEY, headers=head))
            assert answer.status == 200
            found = await usage_of(gw)
        assert (found["requests"], found["quota_reserved"], found["requests_under_way"]) == (1, 0, 0)

    async def test_S2_08_what_has_no_tokens_is_not_counted(self) -> None:
        async with metered(daily_token_quota=10_000) as (gw, _, client):
            body = json.dumps({"model": "sim", "prompt": CONTENT}).encode()
            tokenize = request("POST", "/tokenize", body=body, key=KEY, headers=JSON)
            for data in (tokenize, request("GET", "/v1/models", key=KEY), request("GET", "/v1/usage", key=KEY)):
                assert (await ask(client, data)).status == 200
            found = await usage_of(gw)
        assert (found["requests"], found["total_tokens"]) == (0, 0)

    async def test_S2_08_merged_embeddings_are_charged_to_those_who_asked(self) -> None:
        async with metered(embedding_merge_s=0.02, daily_token_quota=100_000) as (gw, sim, _):
            texts = [CONTENT + " again" * number for number in range(12)]

            async def one(number: int) -> RawResponse:
                body = json.dumps({"model": "sim", "input": texts[number]}).encode()
                key = (KEY, OTHER_KEY)[number % 2]
                return await once(gw, request("POST", "/v1/embeddings", body=body, key=key,
                                              headers=JSON))  # fmt: skip

            answers = await asyncio.gather(*map(one, range(12)))
            await gw.idle()
            assert len(posts(sim)) < 12
            for at, key in enumerate((KEY, OTHER_KEY)):
                found = await usage_of(gw, key)
                told = sum(answer.json()["usage"]["prompt_tokens"] for answer in answers[at::2])
                assert (found["prompt_tokens"], found["quota_reserved"], found["requests"]) == (told, 0, 6)

    async def test_S2_08_records_and_usage_agree(self) -> None:
        async with metered() as (gw, _, client):
            for turn in range(10):
                await ask(client, say(turn + 1, stream=bool(turn % 2)))
            found = await usage_of(gw)
            records = [record for record in gw.records if record["method"] == b"POST"]
        assert found["prompt_tokens"] == sum(record["prompt_tokens"] for record in records)
        assert found["completion_tokens"] == sum(record["completion_tokens"] for record in records) == 55


def rows(folder: Path) -> list[tuple[Any, ...]]:
    """What the store has of usage, read by another process's eyes."""
    with closing(sqlite3.connect(f"file:{next(folder.glob('*.db'))}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT key_id, prompt, completion, requests FROM usage").fetchall()


class TestS203:
    """S2.3: a daily quota of tokens for each key, quick in memory, kept in SQLite."""

    async def test_S2_03_DAILY_TOKEN_QUOTA_sets_it_and_429_says_when_it_is_spent(self) -> None:
        environ = {**PROFILE, "DAILY_TOKEN_QUOTA": str(estimate() + 20)}
        async with Simulator() as sim, under({**environ, "VLLM_URL": sim.url}) as gw:
            assert (await once(gw, say(20))).status == 200
            refused = await once(gw, say(20))
            assert_limited(refused, "daily_quota_exceeded")
            assert 0 < int(refused.header("retry-after") or "") <= 86_400
            assert (await once(gw, say(20, key=OTHER_KEY))).status == 200, "each key has its own"
            assert (await usage_of(gw))["quota"] == estimate() + 20

    async def test_S2_03_zero_is_unlimited(self) -> None:
        environ = {**PROFILE, "DAILY_TOKEN_QUOTA": "0"}
        async with Simulator() as sim, under({**environ, "VLLM_URL": sim.url}) as gw:
            assert (await once(gw, say(5000))).status == 200
            found = await usage_of(gw)
            assert (found["quota"], found["quota_remaining"], found["completion_tokens"]) == (-1, -1, 5000)

    async def test_S2_03_usage_and_quota_outlive_a_restart(self, tmp_path: Path) -> None:
        settings: dict[str, Any] = {"state_dir": str(tmp_path), "daily_token_quota": estimate() + 50}
        async with metered(**settings) as (gw, _, client):
            assert (await ask(client, say(50))).status == 200
            before = await usage_of(gw)
        name = sha256(KEY.encode()).hexdigest()[:12]
        assert [row[1:] for row in rows(tmp_path) if row[0] == name] == [(prompt_tokens(), 50, 1)]
        async with metered(**settings) as (gw, _, client):
            assert await usage_of(gw) == before
            assert_limited(await ask(client, say(50)), "daily_quota_exceeded")
            assert (await ask(client, say(50, key=OTHER_KEY))).status == 200

    async def test_S2_03_the_store_has_it_within_a_moment(self, tmp_path: Path) -> None:
        async with metered(state_dir=str(tmp_path), flush_interval_s=0.1) as (gw, _, client):
            assert (await ask(client, say(8))).status == 200
            name = sha256(KEY.encode()).hexdigest()[:12]
            await gw.until("it is written", lambda: (name, prompt_tokens(), 8, 1) in rows(tmp_path), 3.0)


class TestS313:
    """S3.13, its token budgets: a key of the store has its own, by the day and by the minute."""

    async def test_S3_13_a_keys_own_budgets_come_before_the_defaults(self, tmp_path: Path) -> None:
        settings: dict[str, Any] = {"state_dir": str(tmp_path), "daily_token_quota": 10, "tokens_per_minute": 10}
        async with metered(**settings) as (gw, _, client):
            rich = await make_key(gw, daily_tokens=5000, tokens_per_minute=4000, requests_per_minute=3)
            free = await make_key(gw, daily_tokens=0, tokens_per_minute=0)
            plain = await make_key(gw)
            answer = await ask(client, say(100, key=rich))
            assert answer.status == 200
            assert answer.header("x-ratelimit-limit-tokens") == "4000"
            assert answer.header("x-ratelimit-remaining-requests") == "2"
            assert (await ask(client, say(100, key=free))).status == 200
            assert (await ask(client, say(100, key=plain))).status == 429
            found = await usage_of(gw, rich)
            assert (found["quota"], found["quota_remaining"]) == (5000, 5000 - prompt_tokens() - 100)
            assert (await usage_of(gw, free))["quota_remaining"] == -1
            assert (await usage_of(gw, plain))["quota"] == 10

    async def test_S3_13_a_key_may_be_cut_where_others_are_refused(self, tmp_path: Path) -> None:
        async with metered({"itl_ms": 1.0}, state_dir=str(tmp_path), default_cost_tokens=10) as (gw, _, client):
            cut = await make_key(gw, daily_tokens=estimate() + 20, on_exhausted="cut")
            refused = await make_key(gw, daily_tokens=estimate() + 20)
            answer = await ask(client, say(500, stream=True, key=cut))
            assert answer.status == 200
            assert answer.body.endswith(b"data: [DONE]\n\n")
            assert b"daily_quota_exceeded" in answer.body
            assert (await ask(client, say(500, stream=True, key=refused))).status == 429


async def make_key(gw: Running, **fields: Any) -> str:
    """A new key in the gateway's store; its text."""
    state = gw.gateway._state
    assert state is not None
    _, text = await state.run(stored.create, fields, "test")
    return str(text)


HOSTILE = {
    "sql": "' OR '1'='1",
    "sql-union": "' UNION SELECT digest FROM keys; --",
    "sql-drop": "'; DROP TABLE keys; --",
    "utf-8": "schl\N{LATIN SMALL LETTER U WITH DIAERESIS}ssel\N{KEY}",
    "long": "k" * 30_000,
    "too-long": "k" * 32_768,
    "nul": "sk-nul\0rest",
    "percent": "%27%20OR%201=1",
}
STATUS = {"too-long": 431, "nul": 400}


@asynccontextmanager
async def with_store(folder: Path) -> AsyncIterator[tuple[Running, Simulator]]:
    async with (
        Simulator(SimConfig()) as sim,
        running([sim.url], state_dir=str(folder), require_key=True, flush_interval_s=0.1) as gw,
    ):
        yield gw, sim


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())


@pytest.mark.together
class TestD3:
    """Hostile keys before a gateway with a store: refused like any wrong key, and no byte of them gets there."""

    @pytest.mark.parametrize("field", ["Authorization: Bearer ", "x-api-key: "])
    @pytest.mark.parametrize("name", HOSTILE)
    async def test_D3_hostile_key_and_a_store(self, name: str, field: str, tmp_path: Path) -> None:
        line = (field + HOSTILE[name]).encode() + b"\r\n"
        async with with_store(tmp_path) as (gw, sim):
            good = await make_key(gw, name="good")
            answer = await once(gw, say(1, key=None).replace(b"\r\n", b"\r\n" + line, 1))
            assert answer.status == STATUS.get(name, 401)
            assert HOSTILE[name].encode()[:12] not in answer.body
            assert posts(sim) == []
            assert (await once(gw, say(3, key=good))).status == 200, "the store is as it was"
            await gw.until("usage is written", lambda: any(row[3] == 1 for row in rows(tmp_path)), 3.0)
            kept = everything(tmp_path)
        kept += everything(tmp_path)
        assert HOSTILE[name].encode()[:12] not in kept
        assert sha256(HOSTILE[name].encode()).digest() not in kept
        assert good.encode() not in kept
        assert good.removeprefix("fgw_").encode() not in kept
        assert sha256(good.encode()).digest() in kept, "of a key there is its digest"
        assert not [line for line in gw.events.lines if good in str(line) or HOSTILE[name][:12] in str(line)]

    @pytest.mark.parametrize("blank", [" ", "  ", "\t"])
    async def test_D3_a_blank_behind_a_stored_key_is_no_part_of_it(self, blank: str, tmp_path: Path) -> None:
        """RFC 9110 §5.5: blanks around a field's value are not its own; within it they are."""
        async with with_store(tmp_path) as (gw, _):
            good = await make_key(gw)
            assert (await once(gw, say(1, key=good + blank))).status == 200
            assert (await once(gw, say(1, key=good[:9] + blank + good[9:]))).status == 401
            assert (await once(gw, say(1, key=good[:-1] + blank))).status == 401

    async def test_D3_a_digest_or_an_id_out_of_the_store_is_no_key(self, tmp_path: Path) -> None:
        async with with_store(tmp_path) as (gw, sim):
            good = await make_key(gw, name="payroll")
            state = gw.gateway._state
            assert state is not None
            (record,) = await state.run(stored.list_keys)
            for wrong in (record.digest.hex(), record.id, "payroll", good.upper(), good[4:], good + "="):
                assert (await once(gw, say(1, key=wrong))).status == 401, wrong
            assert posts(sim) == []


async def test_money_that_was_spent_is_spent_after_a_restart_and_who_pays_sees_what_for(tmp_path: Path) -> None:
    """A key of the store, of a tenant with a budget of its own, whose days are limited, and the model's; deleted in the end."""
    admin = "sk-admin-who-pays-0123"
    settings: dict[str, Any] = {
        "state_dir": str(tmp_path), "control_listen": "127.0.0.1:0", "admin_key": admin, "flush_interval_s": 0.05,
        "prices": [PriceConfig(model="sim", input="1000", output="2000")],
        "tenants": [TenantConfig(name="lab", budget="5", budget_period="day", daily_tokens=1000)],
        "routes": [RouteConfig(model="sim", daily_tokens=1000, key_daily_tokens=1000)],
    }  # fmt: skip
    database = Database.open(str(tmp_path / "fastgw.db"))
    record, key = stored.create(database, {"name": "=ann", "tenant": "lab", "budget": "3", "budget_period": "day"}, "test")
    database.close()
    cost = prompt_tokens() + 2 * 20
    async with Simulator(SimConfig()) as simulator:
        engine = EngineConfig(url=simulator.url)
        for times in (1, 2):
            async with running([engine], **settings) as gw:
                assert (await once(gw, say(20, key=key))).status == 200
                found = await usage_of(gw, key)
                for kind in ("key", "tenant"):
                    assert found[f"{kind}_budget"]["spent"] == f"{times * cost / 1000:g}"
                for used in (found["tenant"], found["models"]["sim"]):
                    assert (used["quota_used"], used["quota_reserved"]) == (found["total_tokens"], 0)
                assert found["total_tokens"] == times * (prompt_tokens() + 20)
                if times == 2:
                    assert gw.gateway.core is not None
                    together = gw.gateway.core.accounts.scopes.models["sim"].together
                    assert together is not None
                    assert together.day is not None
                    assert together.day.spent == found["total_tokens"]
        async with running([engine], **settings) as gw:
            assert gw.gateway._control is not None
            async with RawClient.connect(gw.gateway._control.url) as client:
                asks = [("DELETE", f"/admin/keys/{record.id}", 204), ("GET", "/admin/usage?by=key,tenant,model", 200)]
                for method, path, status in asks:
                    answer = await client.ask(request(method, path, headers=[("Authorization", f"Bearer {admin}")]), 10.0)
                    assert answer.status == status, answer.body
    (row,) = answer.json()["data"]
    assert (row["key"], row["name"], row["tenant"], row["model"]) == (record.id, "=ann", "lab", "sim")
    assert (row["requests"], row["cost"], row["unpriced_tokens"]) == (2, f"{2 * cost / 1000:g}", 0)
