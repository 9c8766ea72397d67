"""Embedding requests that arrive together share a call to the engine, and nobody can tell from the answers."""

from __future__ import annotations

import asyncio
import gc
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from fastgw.sim import ScriptedConnection, SimConfig, Simulator
from fastgw.sim.scripted import RawRequest
from tests.e2e.merging import TOGETHER, Answerer, all_at_once, ask, clients, framed, plainly, refuses_many, stage, vectors
from tests.e2e.metered import account_of
from tests.support.client import RawClient, RawResponse
from tests.support.gateway import running

pytestmark = pytest.mark.together  # next to all of their time is waiting

KEYS = ["key-of-the-first-account", "key-of-the-second-account"]
WORDS = ("water", "stone", "fire", "air", "a longer text of several words", 'quotes " and \\ and é 水', "", "x" * 500)


def told(answer: RawResponse) -> tuple[Any, ...]:
    """What a client sees of an answer, but for what differs each time."""
    fields = sorted((name.lower(), value) for name, value in answer.headers)
    return answer.status, answer.reason, [one for one in fields if one[0] not in ("date", "x-request-id", "content-length")]


def without_usage(answer: RawResponse) -> Any:
    found = answer.json()
    del found["usage"]
    return found


class TestShared:
    async def test_twenty_at_once_are_a_few_calls_and_nobody_can_tell(self) -> None:
        requests = [ask(WORDS[at % len(WORDS)] + str(at)) for at in range(20)]
        sim = SimConfig()
        async with Simulator(sim) as engine, running([engine.url], health_interval_s=3600.0) as gw:
            alone = [(await all_at_once(gw.port, [one]))[0] for one in requests]
            await gw.idle()
            (counted,) = {(one["completion_tokens"], one["estimated"], one["stream"]) for one in gw.records}
        async with Simulator(sim) as engine, running([engine.url], **TOGETHER) as gw:
            together = await all_at_once(gw.port, requests)
            await gw.idle()
            assert gw.stats.merged_calls <= 3
            assert gw.stats.merged_requests == 20
            records = gw.records
        assert [told(one) for one in together] == [told(one) for one in alone]
        assert [without_usage(one) for one in together] == [without_usage(one) for one in alone]
        assert [one.header("content-length") for one in together] == [str(len(one.body)) for one in together]
        assert len({one.header("x-request-id") for one in together}) == 20
        used = [one.json()["usage"] for one in together]
        assert sum(one["prompt_tokens"] for one in used) == sum(one.json()["usage"]["prompt_tokens"] for one in alone)
        # What the records charge is what the clients were told.
        by_id = {one["request_id"].decode(): one for one in records}
        for answer, usage in zip(together, used, strict=True):
            record = by_id[answer.header("x-request-id") or ""]
            assert record["prompt_tokens"] == usage["prompt_tokens"] == usage["total_tokens"]
            assert (record["status"], record["outcome"], record["model"]) == (200, "ok", "sim")
            assert (record["completion_tokens"], record["estimated"], record["stream"]) == counted
            assert record["engine"] != ""
            assert 0 < record["ttft_s"] <= record["duration_s"]
            assert record["bytes_out"] == len(answer.raw_head) + len(answer.body)

    async def test_nothing_of_them_is_left_to_the_collector(self) -> None:
        """No circle: whoever has been answered is gone, with what he brought."""

        def left() -> list[str]:
            names = [type(one).__name__ for one in gc.get_objects()]
            return [name for name in names if name in ("MergedCall", "Member", "Exchange", "Attempt")]

        async with stage() as on:
            gc.collect()
            before = left()
            gc.disable()
            try:
                await all_at_once(on.gw.port, [ask(str(at)) for at in range(12)])
                await on.gw.idle()
                assert on.gw.stats.merged_requests == 12
                await on.gw.until("all of it is gone", lambda: left() == before)
            finally:
                gc.enable()

    async def test_the_bytes_of_numbers_survive(self) -> None:
        numbers = (b"1.50", b"-0.0", b"1e-7", b"0.1000000000000000055511151231257827")

        async def answer(conn: ScriptedConnection, seen: RawRequest) -> None:
            asked = json.loads(seen.body)["input"]
            rows = [b'{"embedding": [%b], "index": %d}' % (numbers[int(one)], at) for at, one in enumerate(asked)]
            await conn.send(framed(b'{"data": [%b], "model": "m"}' % b", ".join(rows[::-1])))

        async with stage(answer) as on:
            found = await all_at_once(on.gw.port, [ask(["0", "1"]), ask("2"), ask(["3"])])
            assert [one.body for one in found] == [
                b'{"data": [{"embedding": [1.50], "index": 0}, {"embedding": [-0.0], "index": 1}], "model": "m"}',
                b'{"data": [{"embedding": [1e-7], "index": 0}], "model": "m"}',
                b'{"data": [{"embedding": [%b], "index": 0}], "model": "m"}' % numbers[3],
            ]
            assert on.inputs == [["0", "1", "2", "3"]]

    async def test_tokens_share_a_call_too_and_not_with_texts(self) -> None:
        async with stage() as on:
            found = await all_at_once(on.gw.port, [ask([1, 2]), ask([[3], [4, 5]]), ask("a"), ask(["b", "c"])])
            assert [len(one.json()["data"]) for one in found] == [1, 2, 1, 2]
            assert sorted(on.inputs, key=str) == [["a", "b", "c"], [[1, 2], [3], [4, 5]]]

    @pytest.mark.parametrize("way", ["chunks", "close", "slowly"])
    async def test_however_the_answer_is_framed(self, way: str) -> None:
        async def answer(conn: ScriptedConnection, seen: RawRequest) -> None:
            body = vectors(seen)
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            if way == "slowly":
                await conn.send_slowly(framed(body), 0.0005, 23)
            elif way == "chunks":
                middle = len(body) // 2
                await conn.send(head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (middle, body[:middle]))
                await asyncio.sleep(0.01)
                await conn.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body) - middle, body[middle:]))
            else:
                await conn.send(head + b"connection: close\r\n\r\n" + body)
                conn.close()

        async with stage(answer) as on:
            for turn in range(1, 3):
                found = await all_at_once(on.gw.port, [ask("a"), ask(["bb", "c"])])
                assert [one.status for one in found] == [200, 200]
                assert [[row["embedding"][0] for row in one.json()["data"]] for one in found] == [[1], [2, 1]]
                assert len(on.calls) == turn
            used = len({id(one) for one in on.engine.connections if b"POST" in one.received})
            assert used == (2 if way == "close" else 1), "the connection is kept where the message's end is known"

    async def test_a_kept_connection_serves_several(self) -> None:
        async with stage() as on, AsyncExitStack() as stack:
            crowd = await clients(stack, on.gw.port, 3)
            for turn in range(4):
                for at, client in enumerate(crowd):
                    await client.send(ask("x" * (at + turn)))
                for at, client in enumerate(crowd):
                    assert (await client.read_response()).json()["data"][0]["embedding"][0] == at + turn
            assert len(on.calls) == 4

    async def test_each_connection_goes_on_as_its_client_wants(self) -> None:
        async with stage(server_timing=True) as on, AsyncExitStack() as stack:
            closing, old, piped = await clients(stack, on.gw.port, 3)
            await closing.send(ask("a").replace(b"Host: localhost", b"Host: localhost\r\nConnection: close"))
            await old.send(ask("bb").replace(b"HTTP/1.1", b"HTTP/1.0"))
            await piped.send(ask("ccc") + ask("dddd"))
            raw, how = await closing.read_until_closed()
            assert how == "fin"
            assert b"\r\nconnection: close" in raw.partition(b"\r\n\r\n")[0]
            assert b"[1, " in raw
            raw, how = await old.read_until_closed()
            assert how == "fin"
            assert b"[2, " in raw
            for length in (3, 4):
                answer = await piped.read_response()
                assert answer.json()["data"][0]["embedding"][0] == length
                assert "upstream;dur=" in (answer.header("server-timing") or "")
            assert [len(one) for one in on.inputs] == [3, 1]

    async def test_the_engine_gets_one_head_and_need_not_compress(self) -> None:
        async with stage() as on:
            headers = [("Accept-Encoding", "gzip, deflate"), ("X-Own", "1")]
            await all_at_once(on.gw.port, [ask("a", headers=headers), ask("b", headers=headers)])
            (call,) = on.calls
            assert call.header(b"x-own") == b"1"
            assert call.header(b"accept-encoding") is None
            assert call.header(b"content-length") == str(len(call.body)).encode()
            assert call.target == b"/v1/embeddings"

    async def test_the_engines_own_name_for_the_model(self) -> None:
        async with stage(engine={"served_name": "theirs"}) as on:
            found = await all_at_once(on.gw.port, [ask("a"), ask("b")])
            assert [one.status for one in found] == [200, 200]
            assert [json.loads(one.body)["model"] for one in on.calls] == ["theirs"]


def said(usage: dict[str, Any] | None, *, first: bool = False) -> Answerer:
    """An engine whose answer has just this ``usage``, before its vectors or behind them."""

    async def answer(conn: ScriptedConnection, seen: RawRequest) -> None:
        found = json.loads(vectors(seen))
        del found["usage"]
        if usage is not None:
            found = {"usage": usage, **found} if first else {**found, "usage": usage}
        await conn.send(framed(json.dumps(found).encode()))

    return answer


class TestCharged:
    """Each pays its own share of what the shared call has used, and the shares add up to it."""

    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize("usage", [
        {"prompt_tokens": 101, "total_tokens": 101}, {"total_tokens": 101}, {"prompt_tokens": 101}, {"input_tokens": 101},
        {"prompt_tokens": 101, "completion_tokens": 0, "total_tokens": 101},
    ])  # fmt: skip
    async def test_the_shares_add_up_to_the_usage(self, usage: dict[str, int], first: bool) -> None:
        inputs: list[Any] = ["a", "b" * 9, ["c", "dd", "eee"], "f" * 77, "g"]
        async with stage(said(usage, first=first), api_keys=KEYS, daily_token_quota=10_000) as on:
            answers = await all_at_once(on.gw.port, [ask(one, key=KEYS[0]) for one in inputs])
            await on.gw.idle()
            ledger = account_of(on.gw, KEYS[0]).ledger
            assert on.gw.stats.merged_calls == 1
            assert (ledger.prompt, ledger.completion, ledger.requests, ledger.estimated) == (101, 0, len(inputs), 0)
            assert ledger.reserved == 0
            told = [sum(one.json()["usage"].values()) // len([count for count in usage.values() if count]) for one in answers]
            ids = {one["request_id"].decode(): one["prompt_tokens"] for one in on.gw.records}
            assert [ids[one.header("x-request-id") or ""] for one in answers] == told, "each pays what its answer says"

    async def test_without_usage_each_pays_its_estimate(self) -> None:
        async with stage(said(None), api_keys=KEYS, daily_token_quota=10_000) as on:
            await all_at_once(on.gw.port, [ask("a" * 40, key=KEYS[0]), ask("b" * 80, key=KEYS[0])])
            await on.gw.idle()
            ledger = account_of(on.gw, KEYS[0]).ledger
            assert on.gw.stats.merged_calls == 1
            assert ledger.estimated == ledger.prompt >= 30

    async def test_who_has_left_pays_for_himself_and_nobody_else_does(self) -> None:
        """The one that left pays an estimate of his own inputs; of the call's usage the others pay their shares, no more."""
        asked = asyncio.Event()
        go_on = asyncio.Event()

        async def answer(conn: ScriptedConnection, seen: RawRequest) -> None:
            asked.set()
            await go_on.wait()
            await said({"prompt_tokens": 90, "total_tokens": 90})(conn, seen)

        async with stage(answer, api_keys=KEYS, daily_token_quota=10_000) as on, AsyncExitStack() as stack:
            crowd = await clients(stack, on.gw.port, 3)
            for client in crowd:
                await client.send(ask("x" * 38, key=KEYS[0]))
            await asked.wait()
            reserved = account_of(on.gw, KEYS[0]).ledger.reserved
            crowd[0].close()
            ledger = account_of(on.gw, KEYS[0]).ledger
            await on.gw.until("it has paid", lambda: ledger.requests == 1)
            left = ledger.prompt
            assert (left, ledger.estimated) == (reserved // 3, left)
            go_on.set()
            for client in crowd[1:]:
                assert (await client.read_response()).json()["usage"]["prompt_tokens"] == 30
            await on.gw.idle()
            assert (ledger.prompt, ledger.requests, ledger.estimated, ledger.reserved) == (left + 60, 3, left, 0)

    async def test_who_leaves_before_the_call_goes_out_pays_nothing(self) -> None:
        async with stage(api_keys=KEYS, daily_token_quota=10_000, embedding_merge_s=0.3) as on:
            async with RawClient.connect("127.0.0.1", on.gw.port) as client:
                await client.send(ask("a", key=KEYS[0]))
                await on.gw.until("it waits", lambda: on.gw.stats.exchanges_open == 1)
            await on.gw.idle()
            ledger = account_of(on.gw, KEYS[0]).ledger
            assert (ledger.prompt, ledger.requests, ledger.reserved) == (0, 0, 0)

    async def test_a_call_that_fails_is_charged_once_when_each_has_gone_alone(self) -> None:
        async def answer(conn: ScriptedConnection, seen: RawRequest) -> None:
            if len(json.loads(seen.body)["input"]) > 1:
                await conn.send(framed(b'{"usage":{"prompt_tokens":500}}', status=b"400 Bad Request"))
            else:
                await said({"prompt_tokens": 4, "total_tokens": 4})(conn, seen)

        async with stage(answer, api_keys=KEYS, daily_token_quota=10_000) as on:
            await all_at_once(on.gw.port, [ask(["a"], key=KEYS[0]), ask(["b"], key=KEYS[0])])
            await on.gw.idle()
            ledger = account_of(on.gw, KEYS[0]).ledger
            assert len(on.calls) == 3
            assert (ledger.prompt, ledger.requests, ledger.estimated, ledger.reserved) == (8, 2, 0, 0)


class TestApart:
    async def test_off_by_default(self) -> None:
        async with Simulator(SimConfig()) as engine, running([engine.url]) as gw:
            assert [one.status for one in await all_at_once(gw.port, [ask("a"), ask("b")])] == [200, 200]
            assert gw.stats.merged_calls == 0

    async def test_one_alone_is_sent_as_it_came(self) -> None:
        async with stage() as on:
            data = ask("a", user="u")
            (found,) = await all_at_once(on.gw.port, [data])
            assert found.status == 200
            assert [one.body for one in on.calls] == [data.partition(b"\r\n\r\n")[2]]
            assert on.gw.stats.merged_calls == 0

    @pytest.mark.parametrize(
        "other",
        [
            ask("b", dimensions=4), ask("b", user="u"), ask("b", encoding_format="base64"), ask("b", model="other"),
            ask("b", headers=[("X-Own", "1")]), ask("b", headers=[("Accept-Encoding", "gzip")]),
            ask("b").replace(b"/v1/embeddings", b"/v1/embeddings?x=1"),
        ],
    )  # fmt: skip
    async def test_what_differs_goes_apart(self, other: bytes) -> None:
        async with stage() as on:
            found = await all_at_once(on.gw.port, [ask("a"), other, ask("a")])
            assert [one.status for one in found] == [200, 200, 200]
            assert sorted(on.inputs) == [["a", "a"], ["b"]]

    async def test_accounts_never_share_a_call(self) -> None:
        async with stage(api_keys=KEYS) as on:
            requests = [ask(f"{turn}-{at}", key=key) for turn in range(4) for at, key in enumerate(KEYS)]
            assert [one.status for one in await all_at_once(on.gw.port, requests)] == [200] * 8
            assert sorted(on.inputs) == [[f"{turn}-{at}" for turn in range(4)] for at in range(2)]

    async def test_other_endpoints_do_not_wait(self) -> None:
        async with stage() as on:
            data = ask("a").replace(b"/v1/embeddings", b"/v1/completions")
            await all_at_once(on.gw.port, [data, data])
            assert len(on.calls) == 2

    @pytest.mark.parametrize("value", [[], [[]], [1, "a"], None, {"a": 1}, ["a", None]])
    async def test_what_is_odd_is_the_engines_to_judge(self, value: Any) -> None:
        async def refuse(conn: ScriptedConnection, seen: RawRequest) -> None:
            await conn.send(framed(b'{"error":{"message":"no"}}', status=b"400 Bad Request"))

        async with stage(refuse) as on:
            data = ask(value)
            found = await all_at_once(on.gw.port, [data, data])
            assert [one.status for one in found] == [400, 400]
            assert [one.body for one in on.calls] == [data.partition(b"\r\n\r\n")[2]] * 2

    async def test_a_full_call_goes_out_at_once(self) -> None:
        async with stage(embedding_merge_s=1.0, embedding_merge_inputs=4) as on:
            begin = asyncio.get_running_loop().time()
            found = await all_at_once(on.gw.port, [ask("a"), ask(["b", "c"]), ask("d"), ask(["e"] * 4)])
            assert asyncio.get_running_loop().time() - begin < 0.8
            assert [len(one.json()["data"]) for one in found] == [1, 2, 1, 4]
            assert sorted(on.inputs) == [["a", "b", "c", "d"], ["e"] * 4]

    async def test_what_does_not_fit_begins_the_next_call(self) -> None:
        async with stage(embedding_merge_inputs=4) as on:
            found = await all_at_once(on.gw.port, [ask(["a"] * 2), ask(["b"] * 3), ask(["c"])])
            assert [len(one.json()["data"]) for one in found] == [2, 3, 1]
            assert sorted(on.inputs) == [["a"] * 2, ["b"] * 3 + ["c"]]


    async def test_bytes_are_bounded_like_inputs(self) -> None:
        async with stage() as on:
            core = on.gw.gateway.core
            assert core is not None
            core.merger.most_bytes = 30
            found = await all_at_once(on.gw.port, [ask("a" * 10), ask("b" * 20), ask("c" * 3), ask("d" * 40)])
            assert [one.status for one in found] == [200] * 4
            assert sorted(on.inputs) == [["a" * 10], ["b" * 20, "c" * 3], ["d" * 40]]


class TestWaitingForRoom:
    async def test_those_that_wait_for_an_engine_go_to_it_together(self) -> None:
        """Nobody can share a call while the only engine is full; when it has room, those that waited for it do."""
        go = asyncio.Event()

        async def answer(conn: ScriptedConnection, seen: RawRequest) -> None:
            if seen.target == b"/v1/completions":
                await go.wait()
            await plainly(conn, seen)

        async with stage(answer, engine={"max_concurrent": 1}) as on, AsyncExitStack() as stack:
            first, *crowd = await clients(stack, on.gw.port, 5)
            await first.send(ask("busy").replace(b"/v1/embeddings", b"/v1/completions"))
            await on.gw.until("the engine is full", lambda: on.calls)
            for at, client in enumerate(crowd):
                await client.send(ask("x" * at))
            await on.gw.until("all wait in the queue", lambda: on.gw.stats.queue_waiting_open == 4)
            assert on.gw.stats.merged_calls == 0
            go.set()
            for at, client in enumerate(crowd):
                assert (await client.read_response()).json()["data"][0]["embedding"][0] == at
            assert on.inputs == [["busy"], ["", "x", "xx", "xxx"]]
            assert (await first.read_response()).status == 200

    async def test_those_that_find_it_full_wait_and_still_go_together(self) -> None:
        go = asyncio.Event()

        async def answer(conn: ScriptedConnection, seen: RawRequest) -> None:
            if seen.target == b"/v1/completions":
                await go.wait()
            await plainly(conn, seen)

        async with stage(answer, engine={"max_concurrent": 1}) as on, AsyncExitStack() as stack:
            last, *crowd = await clients(stack, on.gw.port, 4)
            for client in crowd:
                await client.send(ask("a"))
            await on.gw.until("they wait for each other", lambda: on.gw.stats.exchanges_open == 3)
            await last.send(ask("busy").replace(b"/v1/embeddings", b"/v1/completions"))
            await on.gw.until("they wait for room", lambda: on.gw.stats.queue_waiting_open == 3)
            go.set()
            assert [(await client.read_response()).status for client in (last, *crowd)] == [200] * 4
            assert on.inputs == [["busy"], ["a"] * 3]

    async def test_what_has_failed_together_is_not_put_together_again(self) -> None:
        async with stage(refuses_many("reset"), engine={"max_concurrent": 1}) as on:
            found = await all_at_once(on.gw.port, [ask(word) for word in "abc"])
            assert [one.status for one in found] == [200] * 3
            assert [len(one) for one in on.inputs] == [3, 1, 1, 1]

    async def test_a_shared_call_takes_one_place(self) -> None:
        go = asyncio.Event()

        async def answer(conn: ScriptedConnection, seen: RawRequest) -> None:
            if b'"first"' in seen.body:
                await go.wait()
            await plainly(conn, seen)

        async with stage(answer, engine={"max_concurrent": 1}) as on, AsyncExitStack() as stack:
            crowd = await clients(stack, on.gw.port, 4)
            for client in crowd[:2]:
                await client.send(ask("first"))
            await on.gw.until("the engine is full", lambda: on.calls)
            for client in crowd[2:]:
                await client.send(ask("second"))
            await on.gw.until("the others wait", lambda: on.gw.stats.queue_waiting_open == 2)
            assert len(on.calls) == 1
            go.set()
            assert [(await client.read_response()).status for client in crowd] == [200] * 4
            assert on.inputs == [["first"] * 2, ["second"] * 2]


@pytest.mark.deadline_s(60)
async def test_a_crowd_in_any_order_gets_its_own_vectors() -> None:
    """Many connections, each asking again and again, some of them leaving: everybody's vectors are their own."""
    settings = {**TOGETHER, "embedding_merge_s": 0.003}
    async with Simulator(SimConfig(embedding_size=4)) as engine, running([engine.url], **settings) as gw:
        expected: dict[str, Any] = {}
        for at in range(24):
            (found,) = await all_at_once(gw.port, [ask(f"text {at}")])
            expected[f"text {at}"] = found.json()["data"][0]["embedding"]

        async def one(number: int) -> None:
            async with RawClient.connect("127.0.0.1", gw.port) as client:
                for turn in range(8):
                    own = [f"text {(number * 7 + turn * 5 + at) % 24}" for at in range(1 + (number + turn) % 3)]
                    await client.send(ask(own if len(own) > 1 else own[0]))
                    if number % 6 == 5 and turn == 4:
                        return
                    answer = await client.read_response()
                    assert [row["embedding"] for row in answer.json()["data"]] == [expected[text] for text in own]
                    assert [row["index"] for row in answer.json()["data"]] == list(range(len(own)))

        await asyncio.gather(*(one(number) for number in range(30)))
        await gw.idle()
        assert gw.stats.merged_calls > 0
        assert gw.stats.merged_requests > gw.stats.merged_calls
        core = gw.gateway.core
        assert core is not None
        assert len(core.merger) == 0
        assert core.table.pools[0].engine.inflight == 0
