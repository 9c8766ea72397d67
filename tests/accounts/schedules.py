"""Made-up crowds: several keys with limits of all kinds, clients that ask in every way and sometimes leave, honest engines.

Owns: what is drawn for one seed, and the accountant beside it, who looks at each moment at which something is produced:
never more than was reserved, never more reserved than the key may use. Must never: change the gateway's books.
"""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from time import monotonic, time
from typing import Any, Final

from fastgw import EngineConfig
from fastgw.limits.account import Account
from fastgw.limits.key import KeyRecord
from fastgw.net.clock import micros
from tests.accounts.honest import KINDS, HonestEngine, Work, mark
from tests.support.client import NoResponse, RawClient, RawResponse, request
from tests.support.gateway import Running, running

PATHS: Final = {
    "chat": "/v1/chat/completions", "completions": "/v1/completions", "responses": "/v1/responses",
    "messages": "/v1/messages", "embeddings": "/v1/embeddings",
}  # fmt: skip
WORDS: Final = "rivers and seas, "
HIDDEN = 0.3


@dataclass(slots=True)
class Key:
    """A key, its limits, and what its clients know of what became of their requests."""

    number: int
    text: str
    record: KeyRecord
    leaves: bool
    account: Account | None = None
    asked: int = 0
    admitted: int = 0  # requests that were not refused for a limit
    passed: dict[bytes, int] = field(default_factory=dict)  # tokens of each stream that came through to a client

    @property
    def cut(self) -> bool:
        return self.record.on_exhausted == "cut"


@dataclass(slots=True)
class World:
    """All of one schedule."""

    seed: int
    chance: random.Random
    keys: list[Key]
    engines: list[HonestEngine] = field(default_factory=list)
    owners: dict[int, Key] = field(default_factory=dict)  # request number → whose
    works: dict[int, list[Work]] = field(default_factory=dict)  # key number → all that was begun for it
    wrong: list[str] = field(default_factory=list)
    looks: int = 0

    @property
    def apis(self) -> list[str]:
        """Some crowds ask for embeddings most of the time: these share calls."""
        return [*PATHS, "chat"] if self.seed % 4 else ["embeddings", "embeddings", "embeddings", "chat"]

    def say(self, what: str) -> None:
        if len(self.wrong) < 20:
            self.wrong.append(f"seed {self.seed}: {what}")

    # --- at every moment
    def watch(self, work: Work) -> None:
        """Something was begun, produced or ended."""
        key = self.owners[work.number]
        account = key.account
        assert account is not None
        works = self.works.setdefault(key.number, [])
        if work not in works:
            works.append(work)
        self.looks += 1
        ledger = account.ledger
        booked = ledger.prompt + ledger.completion
        if ledger.limit and booked + ledger.reserved > ledger.limit:
            self.say(f"key {key.number}: {booked} used and {ledger.reserved} reserved of {ledger.limit}")
        # What was broken off is charged as far as it can be seen; that only makes the other side larger.
        produced = sum(one.produced for one in works if not one.lost)
        if ledger.limit and not key.cut and produced > booked + ledger.reserved:
            self.say(f"key {key.number}: {produced} produced, {booked} booked and {ledger.reserved} reserved")
        under_way = sum(not one.over for one in works)
        # (Of a stream that the gateway cuts the engine hears a moment after its place was given on.)
        if account.concurrency and under_way > account.concurrency and not key.cut:
            self.say(f"key {key.number}: {under_way} at the engines at once, of {account.concurrency}")


def world_of(seed: int) -> World:
    chance = random.Random(seed)
    keys = []
    for number in range(4):
        text = f"sk-{seed}-{number}-of-a-made-up-crowd"
        daily = chance.choice([0, 700, 3000, 9000])
        record = KeyRecord(
            id=f"key-{seed}-{number}",
            digest=sha256(text.encode()).digest(),
            requests_per_minute=chance.choice([0, 0, 12, 40]),
            tokens_per_minute=chance.choice([0, 0, 2000, 12_000]),
            daily_tokens=daily,
            concurrency=chance.choice([0, 1, 3]),
            on_exhausted=chance.choice(["refuse", "refuse", "cut"]),
        )
        keys.append(Key(number, text, record, leaves=chance.random() < 0.5))
    return World(seed, chance, keys)


def body_of(chance: random.Random, number: int, api: str) -> dict[str, Any]:
    """A request in one of the many ways to write it."""
    text = mark(number) + WORDS * chance.choice([1, 5, 5, 20])
    body: dict[str, Any] = {"model": "m"}
    if api == "embeddings":
        return {**body, "input": text}
    hidden = chance.random() < HIDDEN  # what becomes prompt need not stand among the messages
    short = mark(number) if hidden else text
    tools = [{"type": "function", "function": {"name": "f", "description": text, "parameters": {}}}]
    if api in ("chat", "messages"):
        body["messages"] = [{"role": "user", "content": short}]
    else:
        body["input" if api == "responses" else "prompt"] = short
    if hidden and api == "messages" and chance.random() < 0.5:
        body["system"] = text
    elif hidden and api == "responses":
        body["instructions"] = text
    elif hidden and api != "completions":
        body["tools"] = tools
    body |= _limit_of(chance, api)
    if api != "messages" and chance.random() < 0.2:
        body[chance.choice(["n", "n", "n_cmpl"])] = chance.choice([1, 2, 3])
    if api == "completions" and not hidden and chance.random() < 0.1:
        body["prompt"] = [text, WORDS]
    if api == "completions" and chance.random() < 0.2:
        body["best_of"] = chance.choice([1, 3]) * int(body.get("n", 1))  # (fewer than `n` are refused)
    if chance.random() < 0.5:
        body["stream"] = True
        body.pop("best_of", None)
        if api in ("chat", "completions") and chance.random() < 0.3:
            body["stream_options"] = {"include_usage": True}
    return body


def _limit_of(chance: random.Random, api: str) -> dict[str, Any]:
    """How long the answer may be: said, not said, said twice, said in a way that means "endless" somewhere."""
    own = "max_output_tokens" if api == "responses" else "max_tokens"
    named = chance.randint(1, 150)
    ways: list[dict[str, Any]] = [{}, {own: named}, {own: named}, {own: float(named)}, {own: None}]
    if api != "messages":
        ways += [{own: 5, "n_predict": 4000}, {own: 5, "max_completion_tokens": 900}]
    if api in ("chat", "completions"):
        ways += [{"n_predict": named}, {own: -1}, {"n_predict": -1, own: named}]
    if api == "chat":
        ways += [{"max_completion_tokens": named}, {own: 900, "max_completion_tokens": 7}]
    return chance.choice(ways)


async def client_of(world: World, gw: Running, key: Key, chance: random.Random) -> None:
    """One client: asks, reads, sometimes leaves, and asks again."""
    client = await RawClient.connect(gw.url)
    try:
        for _ in range(chance.randint(3, 8)):
            number = len(world.owners) + 1000
            world.owners[number] = key
            api = chance.choice(world.apis)
            body = json.dumps(body_of(chance, number, api)).encode()
            data = request("POST", PATHS[api], headers=[("Content-Type", "application/json")], body=body, key=key.text)
            key.asked += 1
            leaves = key.leaves and chance.random() < 0.3
            try:
                if leaves:
                    await client.send(data)
                    answer = await client.read_head(5.0)
                    _forget(world, number)
                    client.close()
                else:
                    answer = await client.ask(data, 10.0)
            except (NoResponse, ConnectionError):
                answer = None
            if answer is None or leaves or not answer.complete:
                client.close()
                client = await RawClient.connect(gw.url)
            _note(key, answer)
    finally:
        client.close()


def _forget(world: World, number: int) -> None:
    for engine in world.engines:
        for work in engine.work.get(number, ()):
            work.lost = work.over = True


def _note(key: Key, answer: RawResponse | None) -> None:
    if answer is None or answer.status != 429:
        key.admitted += 1
    if answer is not None and answer.how_ended != "open" and (answer.header("content-type") or "").startswith("text/event"):
        key.passed[(answer.header("x-request-id") or "").encode()] = answer.body.count(b"la ")


async def played(seed: int) -> list[str]:
    """Play the schedule of ``seed``; what was wrong in it."""
    world = world_of(seed)
    chance = world.chance
    trouble = chance.choice([0.0, 0.0, 0.2])
    settings: dict[str, Any] = {
        "on_capacity": chance.choice(["queue", "reject"]),
        "embedding_merge_s": chance.choice([0.0, 0.004]),
        "retry_statuses": chance.choice([(), ("500", "503")]),
        "retry_fresh": True,
        "max_retries": 2,
        "cb_failure_threshold": 0,
        "quarantine_after": 0,
        "health_interval_s": 3600.0,
        "default_max_tokens": 300,
    }
    async with AsyncExitStack() as stack:
        for at in range(2):
            engine = HonestEngine(chance.choice(KINDS), seed * 10 + at, world.watch, trouble=trouble)
            world.engines.append(await stack.enter_async_context(engine))
        targets = [EngineConfig(url=one.url, kind=one.kind, warm_connections=0) for one in world.engines]
        gw = await stack.enter_async_context(running(targets, **settings))
        core = gw.gateway.core
        assert core is not None
        core.accounts.apply([key.record for key in world.keys], micros(monotonic()), time())
        for key in world.keys:
            key.account = core.accounts.find(key.record.digest)
        begun = monotonic()
        clients = [(key, random.Random(f"{seed} {key.number} {at}")) for key in world.keys for at in range(3)]
        await asyncio.gather(*(client_of(world, gw, key, own) for key, own in clients))
        await gw.idle(10.0)
        _close(world, gw, monotonic() - begun)
        if not world.looks:
            world.say("nothing was ever produced")
    return world.wrong


# --- at the end


def _close(world: World, gw: Running, elapsed_s: float) -> None:
    """The books are closed: nothing is reserved, and what was charged is what was produced."""
    records = [record for record in gw.records if record["method"] == b"POST"]
    for key in world.keys:
        account = key.account
        assert account is not None
        name = f"key {key.number}"
        ledger = account.ledger
        if ledger.reserved or account.inflight:
            world.say(f"{name}: {ledger.reserved} still reserved, {account.inflight} under way")
        mine = [record for record in records if record["key_id"] == account.id]
        logged = sum(max(one["prompt_tokens"], 0) + max(one["completion_tokens"], 0) for one in mine)
        used = ledger.prompt + ledger.completion
        if logged != used:
            world.say(f"{name}: {used} charged, {logged} in the log")
        works = world.works.get(key.number, [])
        _close_each(world, key, mine, works)
        told = [one for one in works if one.told and not one.lost]
        if not any(one.lost for one in works) and len(told) == len(works) and not key.cut:
            produced = sum(one.produced for one in works)
            if used != produced:
                world.say(f"{name}: {used} charged, {produced} produced")
        if key.cut and not key.leaves and ledger.limit and used > ledger.limit:
            world.say(f"{name}: {used} used of {ledger.limit}")
        meter = account.tokens
        if meter is not None:
            now_us = micros(monotonic())
            decayed = meter.rate * elapsed_s / 60 + 1
            debt = meter.burst - meter.left(now_us)
            if not used - decayed <= debt <= used + decayed and used <= meter.burst:
                world.say(f"{name}: {used} charged, and the minute's meter has {debt}, with {decayed:.0f} decayed at most")
            if used > meter.burst + decayed:
                world.say(f"{name}: {used} tokens in {elapsed_s:.1f} s, of {meter.rate} a minute")
        meter = account.requests
        if meter is not None:
            debt = meter.burst - meter.left(micros(monotonic()))
            decayed = meter.rate * elapsed_s / 60 + 1
            sent = ledger.requests
            if debt > key.admitted + 1 or sent > meter.burst + decayed:
                world.say(f"{name}: {key.admitted} of {key.asked} admitted, {sent} sent, and the minute's meter has {debt}")


def _close_each(world: World, key: Key, records: list[dict[str, Any]], works: list[Work]) -> None:
    """Each request by itself, but those that shared a call: what its record says against what its engine did."""
    name = f"key {key.number}"
    done: dict[bytes, list[Work]] = {}
    for work in works:
        done.setdefault(work.request_id, []).append(work)
    for record in records:
        mine = done.get(record["request_id"], [])
        if not mine or record["endpoint"] == PATHS["embeddings"]:
            continue
        work = mine[-1]
        figures = record["prompt_tokens"], record["completion_tokens"]
        truth = work.prompt, work.made
        said = f"{name}: {record['endpoint']} {record['outcome']}, {figures} in the log, {truth} at the engine"
        if work.told and not work.lost and record["outcome"] == "ok":
            if figures != truth or record["estimated"] != (work.answers > 1 and work.made > 0):
                world.say(said)
        elif work.streamed and not work.lost and record["outcome"] == "ok":
            if figures[0] < truth[0] or figures[1] != truth[1] or not record["estimated"]:
                world.say(f"{said}, and it did not tell")
        elif record["outcome"] == "quota":
            # (An engine that ends where it was told to is still heard.)
            passed = key.passed.get(record["request_id"], figures[1])
            if figures[1] != passed or (not record["estimated"] and figures != truth):
                world.say(f"{said}, and {passed} came through before it was cut")
        elif figures[1] > work.made or (figures[0] > 0 and record["outcome"] != "ok" and not record["estimated"]):
            world.say(f"{said}, and it was broken off")
