"""One gateway takes another's place, both in this process: what limits, budgets and the store hold goes over, or stays.

The measure of what goes over is a gateway that was never replaced: after the same requests it says the same of the same key.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgw import Config, EngineConfig, Gateway
from fastgw.config import RouteConfig
from fastgw.config.paying import PriceConfig, TenantConfig
from fastgw.net.process_line import ProcessLine
from fastgw.store.keys import create
from fastgw.store.state import State
from fastgw.upgrade import giving, words
from fastgw.upgrade.refusals import NotHanded
from fastgw.upgrade.taking import Taking
from tests.e2e.paced import ANSWER, PROMPT, WHOLE, Paced
from tests.support import tls_client
from tests.support.client import RawClient, chat, request
from tests.support.gateway import Events, Running, running
from tests.support.ports import closed_port

ADMIN = "sk-admin-of-these-tests"
PRICES = [PriceConfig(model="sim", input="100", output="200")]


async def nobody() -> None:
    """There is no other process, whose end would be waited for."""


@asynccontextmanager
async def successor(gw: Running, config: Config) -> AsyncIterator[Running]:
    """The gateway that has taken ``gw``'s place; that one ends what it has."""
    line, there = ProcessLine.pair()
    events = Events()
    records: list[Any] = []
    new = Gateway(config, log=events, access=records)
    starting = asyncio.ensure_future(new.start(before=Taking(there.detach(), events)))
    assert isinstance(words.read(await line.receive()), words.Ready)
    await gw.gateway.hand_over(line, nobody)
    await starting
    retiring = asyncio.ensure_future(gw.gateway.retire())
    try:
        yield Running(new, events, records)
    finally:
        await retiring
        await new.stop()
    assert not events.errors(), events.errors()


def config_of(engine: str, **settings: Any) -> Config:
    settings = {"drain_timeout_s": 0.5, "rate_limit_per_second": 0, "allowed_hosts": ["*"], "port": 0, **settings}
    if tls_client.ALL:
        settings |= tls_client.settings()
    return Config(engines=[EngineConfig(url=engine)], **settings)


async def say(where: str, key: str, stream: bool = False) -> int:
    async with RawClient.connect(where) as client:
        await client.send(chat("sim", stream=stream, key=key, max_tokens=50))
        return (await client.read_response()).status


async def usage(where: str, key: str) -> dict[str, Any]:
    async with RawClient.connect(where) as client:
        await client.send(request("GET", "/v1/usage", key=key))
        found: dict[str, Any] = (await client.read_response()).json()
        return found


async def make(gw: Running, **fields: Any) -> str:
    """A key in its store."""
    state = gw.gateway._state
    assert state is not None
    _, key = await state.run(lambda database: create(database, fields, "test"))
    return key


LIMITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "none": ({}, {}),
    "requests a minute": ({"requests_per_minute": 1, "burst": 50}, {}),
    "tokens a minute": ({"tokens_per_minute": 300}, {}),
    "tokens a day": ({"daily_tokens": 100_000}, {}),
    "concurrency": ({"concurrency": 9}, {}),
    "a budget": ({"budget": "1000"}, {"prices": PRICES}),
    "all of a tenant's": (
        {"tenant": "lab"},
        {
            "tenants": [TenantConfig(name="lab", requests_per_minute=1, burst=50, tokens_per_minute=300,
                                     daily_tokens=10**6, concurrency=9, budget="1000")],
            "prices": PRICES,
        },
    ),
    "all of a key for a model": (
        {},
        {"routes": [RouteConfig(model="sim", key_requests_per_minute=1, key_burst=50, key_tokens_per_minute=300,
                                key_daily_tokens=10**6, key_concurrency=9)]},
    ),
}  # fmt: skip


def settled(found: dict[str, Any]) -> dict[str, Any]:
    """Without what grows again as time goes by."""
    return {
        name: settled(value) if isinstance(value, dict) else value
        for name, value in found.items()
        if name not in ("requests_remaining", "tokens_remaining")
    }


def remaining(found: dict[str, Any]) -> list[int]:
    """What does."""
    flat = [*found.items(), *(pair for value in found.values() if isinstance(value, dict) for pair in value.items())]
    flat += [pair for value in found.get("models", {}).values() for pair in value.items()]
    return [value for name, value in flat if name in ("requests_remaining", "tokens_remaining")]


async def scenario(
    folder: Path, fields: dict[str, Any], settings: dict[str, Any], replaced: bool, full: bool = False
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What is said of a key: with a stream under way, and when that has ended; and what the store has of it then."""
    paced = Paced()
    async with paced.engine as engine:
        settings = {"state_dir": str(folder), "flush_interval_s": 0.05, "keepalive_timeout_s": 0.5, **settings}
        async with running([engine.url], **settings) as gw:
            key = await make(gw, **fields)
            if full:
                disk_is_full(gw)
            assert await say(gw.url, key) == 200
            async with RawClient.connect(gw.url) as client:
                await client.send(chat("sim", stream=True, key=key, max_tokens=50))
                head = await client.read_head()
                if not replaced:
                    return await _rest(gw, gw, key, paced, client, head)
                async with successor(gw, config_of(engine.url, **settings)) as new:
                    return await _rest(gw, new, key, paced, client, head)


async def _rest(
    gw: Running, new: Running, key: str, paced: Paced, client: RawClient, head: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    assert await say(new.url, key) == 200
    told = [await usage(new.url, key)]
    paced.go.set()
    await client.read_body(head)
    assert head.complete
    client.close()  # (or it is waited for, for two seconds)
    core = new.gateway.core
    assert core is not None
    await new.until("it has settled", lambda: not core.accounts.touched and _under_way(core, key) == 0)
    told.append(await usage(new.url, key))
    state = new.gateway._state
    assert state is not None
    rows = await state.run(lambda database: database.rows("SELECT sum(prompt), sum(completion), sum(requests) FROM usage"))
    spent = await state.run(lambda database: database.rows("SELECT sum(prompt), sum(requests), sum(cost) FROM spending"))
    return told, {"usage": rows, "spending": spent}


def _under_way(core: Any, key: str) -> int:
    from fastgw.digests import digest

    account = core.accounts.find(digest(key.encode()))
    return int(account.inflight + account.ledger.reserved)


def disk_is_full(gw: Running) -> None:
    """Nothing that it uses can be written down by this gateway from now on."""
    state: Any = gw.gateway._state

    def write(rows: Any, done: Callable[[bool], None], spent: Any = None) -> bool:
        asyncio.get_running_loop().call_soon(done, False)
        return True

    state.write = write


@pytest.mark.parametrize(("limit", "full"), [*((limit, False) for limit in LIMITS), ("all of a tenant's", True)])
async def test_limits_say_the_same_as_if_nobody_had_been_replaced(tmp_path: Path, limit: str, full: bool) -> None:
    """With a ``full`` disk nothing of it was in the store when it was handed over."""
    fields, settings = LIMITS[limit]
    (tmp_path / "one").mkdir(mode=0o700)
    (tmp_path / "other").mkdir(mode=0o700)
    own, stored = await scenario(tmp_path / "one", fields, settings, False)
    found, kept = await scenario(tmp_path / "other", fields, settings, True, full)
    assert [settled(one) for one in found] == [settled(one) for one in own]
    assert kept == stored
    for one, other in zip(found, own, strict=True):
        pairs = list(zip(remaining(one), remaining(other), strict=True))
        # (Five tokens come back in a second, and of requests one in a minute.)
        assert all(abs(left - right) <= (20 if right > 50 else 0) for left, right in pairs), pairs
    assert found[1]["requests"] == 3
    assert (found[1]["prompt_tokens"], found[1]["completion_tokens"]) == (3 * PROMPT, 2 * WHOLE + ANSWER)


async def test_what_is_admitted_while_rows_are_said_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key's row was said before it came, and is said again: it is no request that the other one knows nothing of."""
    paced = Paced()
    settings: dict[str, Any] = {"state_dir": str(tmp_path / "state"), "flush_interval_s": 0.05, "keepalive_timeout_s": 0.5}
    async with paced.engine as engine, running([engine.url], **settings) as gw:
        key = await make(gw, tokens_per_minute=300, requests_per_minute=1, burst=50)
        client = await gw.client()
        says = giving.Giving._say_rows

        async def and_one_comes(self: Any) -> None:
            await says(self)
            await client.send(chat("sim", stream=True, key=key, max_tokens=50))
            and_one_comes.head = await client.read_head()  # type: ignore[attr-defined]

        monkeypatch.setattr(giving.Giving, "_say_rows", and_one_comes)
        async with successor(gw, config_of(engine.url, **settings)) as new:
            held = await usage(new.url, key)
            assert held["requests_remaining"] == 49
            assert held["tokens_remaining"] < 250, "what it may use is reserved"
            paced.go.set()
            await client.read_body(and_one_comes.head)  # type: ignore[attr-defined]
            client.close()
            core = new.gateway.core
            assert core is not None
            await new.until("it has settled", lambda: _under_way(core, key) == 0)
            found = await usage(new.url, key)
            assert found["requests_remaining"] == 49
            assert 300 - PROMPT - ANSWER <= found["tokens_remaining"] <= 300


async def test_addresses_that_are_others_by_its_settings_are_bound_anew_and_the_old_ones_end(tmp_path: Path) -> None:
    """A path, a port and the control listener's: each of them as the new settings say, or as it was where they say the same."""
    paced = Paced()
    old, new_path, port = str(tmp_path / "old"), str(tmp_path / "new"), closed_port()
    async with paced.engine as engine:
        async with running([engine.url], unix_socket=old, control_listen="127.0.0.1:0", keepalive_timeout_s=0.3) as gw:
            url, control = gw.url, gw.gateway.control_url
            config = config_of(engine.url, unix_socket=new_path, port=port, control_listen="")
            async with successor(gw, config) as new:
                assert new.gateway.addresses == [f"http://127.0.0.1:{port}", f"unix:{new_path}"]
                assert (await say(new.url, ""), await say(new_path, "")) == (200, 200)
                await new.until("the control listener has ended", lambda: gw.gateway._control is None)
                assert await asyncio.to_thread(Path(old).exists) is False
                for gone in (url, control):
                    with pytest.raises(OSError, match=r"refused|reset|failed"):
                        await say(gone, "")
        # What stays of them stays, whatever becomes of the others.
        for here, then, at in ((old, old, 0), (old, new_path, 0), ("", new_path, 0), (old, "", 0), (old, old, closed_port())):
            config = config_of(engine.url, unix_socket=then, port=at)
            async with running([engine.url], unix_socket=here) as gw, successor(gw, config) as new:
                url = f"http://127.0.0.1:{at or gw.port}"
                assert new.gateway.addresses == [url, *([f"unix:{then}"] if then else [])]
                assert [await say(where, "") for where in (url, then) if where] == [200] * (1 + bool(then))
            assert [await asyncio.to_thread(Path(path).exists) for path in (old, new_path)] == [False, False]


# --- it fails
Other = Callable[[ProcessLine], Any]


async def _hears_all(line: ProcessLine) -> None:
    while not isinstance(words.read(await line.receive()), words.Over):
        pass


async def _goes_at_once(line: ProcessLine) -> None:
    line.close()


async def _goes_when_all_was_said(line: ProcessLine) -> None:
    line.close()


async def _could_begin_and_goes(line: ProcessLine) -> None:
    line.send(words.write(words.Taken([])))
    line.close()


async def _could_begin_without_an_engine_that_has_come(line: ProcessLine) -> None:
    line.send(words.write(words.Taken([])))


async def _says_another_word(line: ProcessLine) -> None:
    line.send(words.write(words.Noted("")))


async def _says_no_word(line: ProcessLine) -> None:
    line.send(b"\xc1")


async def _says_nothing(line: ProcessLine) -> None:
    await asyncio.sleep(5)


async def _reads_nothing(line: ProcessLine) -> None:
    await asyncio.sleep(5)


@pytest.mark.parametrize(
    ("other", "full"),
    [
        (_goes_at_once, False), (_goes_when_all_was_said, False), (_goes_when_all_was_said, True), (_says_another_word, False),
        (_says_no_word, False), (_says_nothing, False), (_reads_nothing, False), (_could_begin_and_goes, False),
        (_could_begin_without_an_engine_that_has_come, False),
    ],
)  # fmt: skip
async def test_whatever_fails_before_the_last_word_all_is_as_it_was(
    tmp_path: Path, other: Other, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients who came meanwhile are answered, the store is written again, and nothing is counted twice or lost."""
    monkeypatch.setattr(giving, "TAKE_S", 0.3)
    if other is _reads_nothing:
        monkeypatch.setattr(giving, "WAITING_BYTES", -1)
    paced = Paced()
    settings = {"state_dir": str(tmp_path / "state"), "control_listen": "127.0.0.1:0", "prices": PRICES}
    async with paced.engine as engine, running([engine.url], flush_interval_s=0.05, **settings) as gw:
        key, quiet = await make(gw, tokens_per_minute=6000, budget="1000", concurrency=3), await make(gw)
        its = State(str(tmp_path / "state"), log=gw.gateway.log)  # the other one's
        async with RawClient.connect(gw.url) as client:
            await client.send(chat("sim", stream=True, key=key))
            head = await client.read_head()
            assert await say(gw.url, key) == 200
            line, there = ProcessLine.pair()
            far = ProcessLine(there)
            waits = asyncio.ensure_future(say(gw.url, key))

            async def fails() -> None:
                if other not in (_goes_at_once, _reads_nothing):
                    await _hears_all(far)
                    if other is _says_nothing:
                        its.open(0)  # (it has the folder until it is brought to its end)
                    if other is _could_begin_without_an_engine_that_has_come:
                        gw.gateway.fleet.add(EngineConfig(url="http://127.0.0.1:9", name="come", models=["none"]))
                    paced.go.set()  # (a request ends that is told to nobody)
                    await client.read_body(head)
                    await asyncio.sleep(0.02)
                await other(far)

            failing = asyncio.ensure_future(fails())
            if full:
                disk_is_full(gw)
                assert await say(gw.url, quiet) == 200
            with pytest.raises(NotHanded):
                await gw.gateway.hand_over(line, its.close)
            failing.cancel()
            assert await waits == 200
            assert await say(gw.url, key) == 200
            paced.go.set()
            if not head.complete:
                await client.read_body(head)
            assert head.complete
        await gw.idle()
        far.close()
        found = await usage(gw.url, key)
        counted = (4, 4 * PROMPT, 3 * WHOLE + ANSWER)
        rows = [(1, PROMPT, WHOLE), counted] if full else [counted]
        assert (found["requests"], found["prompt_tokens"], found["completion_tokens"]) == counted
        assert found["requests_under_way"] == 0
        async with RawClient.connect(gw.gateway.control_url) as client:
            await client.send(request("GET", "/healthz"))
            assert (await client.read_response()).status == 200
        core, state = gw.gateway.core, gw.gateway._state
        assert core is not None
        assert state is not None
        await gw.until("all was written", lambda: not core.accounts.touched and not len(core.accounts.books))
        for table in ("usage", "spending"):
            written = f"SELECT requests, prompt, completion FROM {table} ORDER BY requests"
            assert await state.run(lambda database, asked=written: database.rows(asked)) == rows


async def test_what_is_used_when_the_other_one_has_gone_is_written_down_here(tmp_path: Path) -> None:
    paced = Paced()
    folder = tmp_path / "state"
    async with paced.engine as engine:
        async with running([engine.url], state_dir=str(folder), flush_interval_s=0.05, keepalive_timeout_s=0.5) as gw:
            key = await make(gw)
            async with RawClient.connect(gw.url) as client, RawClient.connect(gw.url) as kept:
                await client.send(chat("sim", stream=True, key=key))
                head = await client.read_head()
                line, there = ProcessLine.pair()
                far = ProcessLine(there)
                handing = asyncio.ensure_future(gw.gateway.hand_over(line, nobody))
                await _hears_all(far)
                for _ in range(3):
                    await kept.send(chat("sim", key=key))
                    assert (await kept.read_response()).status == 200
                    await asyncio.sleep(0.06)  # (it would be written now)
                far.send(words.write(words.Taken([])))
                await handing
                assert isinstance(words.read(await far.receive()), words.Go), "however much is used until then, it waits"
                far.close()
                paced.go.set()
                await client.read_body(head)
            await gw.gateway.retire()
        async with running([engine.url], state_dir=str(folder)) as gw:
            found = await usage(gw.url, key)
    assert (found["requests"], found["prompt_tokens"], found["completion_tokens"]) == (4, 4 * PROMPT, 3 * WHOLE + ANSWER)
