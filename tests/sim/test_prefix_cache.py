"""Prompts are read in turns, and what they begin with is at hand when it was read before."""

from __future__ import annotations

import asyncio

import pytest

from fastgw.sim import SimConfig, Simulator
from fastgw.sim.prefix_cache import BLOCK_BYTES, BLOCK_TOKENS, PrefixCache, blocks_of
from tests.sim.client import chat, connect, request, send, until
from tests.sim.test_metrics_kinds import samples

A, B, C = (letter * BLOCK_BYTES for letter in (b"a", b"b", b"c"))
LONG = "x" * 1000
SAID = [{"role": "user", "content": LONG}]
ENDLESS = 0.001  # tokens in a second: nothing is ever through


@pytest.mark.parametrize(
    ("kept", "asked", "blocks"),
    [
        ([A + B], A + B + C, 2),
        ([A + B], A + C, 1),
        ([A + B], B, 0),  # a block is the same only after the same beginning
        ([A + B], A + B[:-1], 1),  # no half blocks
        ([A + B], A[:-1], 0),
        ([], A, 0),
        ([A, B, C], A, 0),  # two blocks is all there is room for: what was not used for longest has gone
        ([A, B, A, C], A, 1),
        ([A + B, C], A + B, 1),  # the end goes before the beginning
        ([A + B + C], A + B + C, 2),  # a prompt longer than the cache: its beginning stays
    ],
)
def test_what_is_at_hand(kept, asked, blocks):
    cache = PrefixCache(2 * BLOCK_TOKENS + 1)
    for prompt in kept:
        cache.keep(blocks_of("m", prompt))
        assert cache.tokens <= 2 * BLOCK_TOKENS
    assert cache.found(blocks_of("m", asked)) == blocks * BLOCK_TOKENS


def test_one_models_prompts_are_not_anothers():
    cache = PrefixCache(1000)
    cache.keep(blocks_of("m", A + B))
    assert cache.found(blocks_of("n", A + B)) == 0


@pytest.mark.parametrize(
    ("path", "body", "fault"),
    [
        ("/v1/chat/completions", {"messages": SAID, "max_tokens": 1}, ""),
        ("/v1/chat/completions", {"messages": SAID, "max_tokens": 2, "stream": True}, ""),
        ("/v1/chat/completions", {"messages": SAID, "max_tokens": 2, "stream": True}, "sse-content-length"),
        ("/v1/completions", {"prompt": LONG, "max_tokens": 1}, ""),
        ("/v1/responses", {"input": LONG}, ""),
        ("/v1/messages", {"messages": SAID, "max_tokens": 1}, ""),
    ],
)
def test_a_prompt_is_at_hand_the_second_time_in_every_api(run, path, body, fault):
    asked = request("POST", path, body, {"x-sim-fault": fault} if fault else {}, True)

    async def main():
        async with Simulator(SimConfig(prefix_cache_tokens=1000, output_tokens=1)) as sim:
            first = await send(sim.url, asked)
            once = sim.state.cached_tokens
            second = await send(sim.url, asked)
            page = (await send(sim.url, request("GET", "/metrics"))).body.decode()
            return first, second, once, page

    first, second, once, page = run(main)
    assert (first.status, once) == (200, 0)
    assert first.body == second.body  # it changes no answer
    rows = samples(page)
    assert rows["vllm:prefix_cache_hits_total"][1] == 3 * BLOCK_TOKENS
    assert rows["vllm:prefix_cache_queries_total"][1] == rows["vllm:prompt_tokens_total"][1]


def test_prompts_are_read_one_after_the_other_and_only_what_is_new_of_them(run):
    async def main():
        async with Simulator(SimConfig(prefill_tokens_per_s=5000, prefix_cache_tokens=10_000)) as sim:
            ended: list[str] = []

            async def one(text: str) -> None:
                before = sim.state.received
                asked = asyncio.create_task(send(sim.url, chat(messages=[{"role": "user", "content": text}], max_tokens=1)))
                await until(lambda: sim.state.received > before)
                asked.add_done_callback(lambda _: ended.append(text[0]))
                asking.append(asked)

            asking: list[asyncio.Task[object]] = []
            for text in ("a" * 1600, "b", "a" * 1600 + "c"):
                await one(text)
            await asyncio.gather(*asking)
            return ended, sim.state

    ended, state = run(main)
    assert ended == ["a", "b", "a"]  # the short one waits for the long one before it
    assert state.cached_tokens == 6 * BLOCK_TOKENS  # of the last, which came while the first was still to be read
    assert (state.running, state.waiting) == (0, 0)


@pytest.mark.parametrize("leaves", [0, 1], ids=["the one that is being read", "one that waits"])
def test_a_client_that_leaves_makes_room_for_the_next(run, leaves):
    async def main():
        async with Simulator(SimConfig(prefill_tokens_per_s=ENDLESS)) as sim:
            writers = []
            for number in range(2):
                _, writer = await connect(sim.url)
                writer.write(chat(stream=True))
                await until(lambda count=number + 1: sim.state.running == count)
                writers.append(writer)
            writers[leaves].close()
            await until(lambda: sim.state.cancelled == 1)
            assert sim.state.running == 1
            writers[1 - leaves].close()
            await until(lambda: sim.state.cancelled == 2)
            assert (sim.state.running, sim.state.read_tokens) == (0, 0)
            sim.engine.prefill._rate = 1e9
            return await send(sim.url, chat())

    assert run(main).status == 200


def test_nothing_is_kept_where_no_cache_is_asked_for(run):
    async def main():
        async with Simulator(SimConfig(prefill_tokens_per_s=1e9)) as sim:
            for _ in range(2):
                await send(sim.url, chat(messages=SAID))
            return sim.state

    state = run(main)
    assert state.read_tokens > 500
    assert state.cached_tokens == 0


@pytest.mark.parametrize("wrong", [{"prefill_tokens_per_s": -1.0}, {"prefix_cache_tokens": -1}])
def test_negative_figures_are_refused(wrong):
    with pytest.raises(ValueError, match="prefill_tokens_per_s, prefix_cache_tokens: not negative"):
        SimConfig(**wrong)
