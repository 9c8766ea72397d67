"""fastgw in front of a real engine: llama.cpp's own server over a tiny random model.

Greedy sampling makes its answers a function of the request, so what comes through the gateway is compared with what the
engine says directly. What llama.cpp does to a gateway (it closes idle connections after 5 s, each connection after 100
requests or one streamed answer, and binds a thread to each) is checked directly first: these are the premises.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator

import pytest

from tests.support.client import NoResponse, RawClient, RawResponse, chat, request
from tests.support.llama import LlamaServer
from tests.support.way import Way, both_ways, gateway, to_engine

MODEL = "tiny-random"
# Thousands of tokens: a stream that takes seconds, so that there is a middle to leave it in.
LONG_TOKENS = 12_000
IDLE_CLOSE_S = 5.0


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    with LlamaServer(tmp_path_factory.mktemp("llama")) as server:
        yield server


async def ask(url: str, data: bytes, *, timeout_s: float = 10.0) -> RawResponse:
    """One request on a connection of its own; its whole answer."""
    async with RawClient.connect(url) as client:
        await client.send(data)
        return await client.read_response(timeout=timeout_s)


def settled(body: bytes) -> str:
    """The body without what differs from answer to answer: ids, the time of day, measured times."""
    text = re.sub(r'"(id|created)":("[^"]*"|\d+)', r'"\1":0', body.decode())
    return re.sub(r'"(\w+_ms|\w+_per_second)":[-+.e\d]+', r'"\1":0', text)


def events_of(body: str) -> list[str]:
    return [event for event in re.split(r"(?<=\n\n)", body) if event]


def without_usage(body: str) -> str:
    """The stream without its extra chunk, ``choices: []``."""
    return "".join(event for event in events_of(body) if '"choices":[]' not in event)


def said(response: RawResponse) -> str:
    """The text of a streamed answer."""
    chunks = [re.search(r'"delta":\{"content":"([^"]*)"', event) for event in response.events()]
    return "".join(chunk[1] for chunk in chunks if chunk)


async def busy(engine: LlamaServer) -> int:
    return await asyncio.to_thread(engine.busy)


async def settle(engine: LlamaServer, wanted: int, within_s: float) -> float:
    """Wait until ``wanted`` slots are generating; how long that took."""
    start = time.monotonic()
    while (now := await busy(engine)) != wanted:
        assert time.monotonic() - start < within_s, f"{now} slots are busy after {within_s:g} s, not {wanted}"
        await asyncio.sleep(0.005)
    return time.monotonic() - start


# The premises.


async def test_premise_the_engine_answers_the_same_each_time(engine: LlamaServer) -> None:
    plain = [await ask(engine.url, chat(MODEL, max_tokens=40)) for _ in range(2)]
    assert settled(plain[0].body) == settled(plain[1].body)
    streamed = await ask(engine.url, chat(MODEL, True, max_tokens=40))
    assert said(streamed) == plain[0].json()["choices"][0]["message"]["content"] != ""


async def test_premise_the_engine_closes_after_a_stream_that_announced_keep_alive(engine: LlamaServer) -> None:
    async with RawClient.connect(engine.url) as client:
        await client.send(chat(MODEL, True, max_tokens=2))
        response = await client.read_response()
        assert response.complete
        assert "timeout=5" in (response.header("keep-alive") or "")
        assert await client.read_until_closed(1.0) == (b"", "fin")


async def test_premise_the_engine_closes_after_a_hundred_requests(engine: LlamaServer) -> None:
    async with RawClient.connect(engine.url) as client:
        for _ in range(100):
            await client.send(request(target="/health"))
            assert (await client.read_response()).status == 200
        with pytest.raises((NoResponse, ConnectionError)):  # noqa: PT012 - either of the two may find it closed
            await client.send(request(target="/health"))
            await client.read_response()


# Through the gateway.


async def test_a_plain_answer_is_the_engines(engine: LlamaServer) -> None:
    data = chat(MODEL, max_tokens=60)
    direct = await ask(engine.url, data)
    async with gateway(engine.url) as url:
        through = await ask(url, data)
    assert through.status == 200
    assert through.header("content-type") == direct.header("content-type")
    assert settled(through.body) == settled(direct.body)


async def test_a_stream_is_the_engines_byte_for_byte(engine: LlamaServer) -> None:
    data = chat(MODEL, True, max_tokens=200)
    direct = settled((await ask(engine.url, data)).body)
    with_usage = chat(MODEL, True, max_tokens=200, stream_options={"include_usage": True})
    # llama.cpp moves its timings into the usage chunk when it is asked for one: that is the engine's stream then.
    asked = without_usage(settled((await ask(engine.url, with_usage)).body))
    async with gateway(engine.url) as url:
        through = await ask(url, data)
    assert (through.status, through.complete, through.how_ended) == (200, True, "terminal-chunk")
    assert (through.header("content-type") or "").startswith("text/event-stream")
    assert settled(through.body) in {direct, asked}
    assert "usage" not in settled(through.body)
    assert through.events()[-1] == "[DONE]"


async def test_the_usage_chunk_comes_when_it_is_asked_for(engine: LlamaServer) -> None:
    data = chat(MODEL, True, max_tokens=20, stream_options={"include_usage": True})
    direct = await ask(engine.url, data)
    async with gateway(engine.url) as url:
        through = await ask(url, data)
    assert settled(through.body) == settled(direct.body)
    assert '"completion_tokens":20' in through.events()[-2]


async def test_without_injection_nothing_at_all_differs(engine: LlamaServer) -> None:
    data = chat(MODEL, True, max_tokens=20)
    direct = await ask(engine.url, data)
    async with gateway(engine.url, inject_usage=False) as url:
        through = await ask(url, data)
    assert settled(through.body) == settled(direct.body)


@pytest.mark.parametrize(
    "data",
    [
        chat(body=b'{"model":"tiny-random"}'),
        chat(MODEL, messages="not a list"),
        chat(MODEL, temperature="hot"),
        chat(MODEL, path="/v1/completions", prompt="Once", max_tokens=5),
        request("POST", "/tokenize", body=b'{"model":"tiny-random","content":"bada bing"}'),
    ],
    ids=["no-messages", "bad-messages", "bad-temperature", "completions", "tokenize"],
)
async def test_other_answers_and_the_engines_own_errors_pass(engine: LlamaServer, data: bytes) -> None:
    if b"/tokenize" in data:
        data = data.replace(b"Host:", b"Content-Type: application/json\r\nHost:", 1)
    direct = await ask(engine.url, data)
    async with gateway(engine.url) as url:
        through = await ask(url, data)
    assert (through.status, settled(through.body)) == (direct.status, settled(direct.body))


async def test_the_engines_model_is_listed(engine: LlamaServer) -> None:
    async with gateway(engine.url) as url:
        listed = (await ask(url, request(target="/v1/models"))).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [MODEL]


@pytest.mark.quiet
@both_ways
async def test_tokens_come_one_by_one_and_not_all_at_the_end(engine: LlamaServer, way: Way) -> None:
    async with to_engine(way, engine.url) as url, RawClient.connect(url) as client:
        await client.send(chat(MODEL, True, max_tokens=1500))
        response = await client.read_head()
        await client.read_until(response, b'"content":" ')
        first = time.monotonic()
        early = len(response.events())
        await client.read_body(response, 10.0)
        assert response.complete
        assert time.monotonic() - first > 0.2
        assert early < 300 < 1500 < len(response.events())
    await settle(engine, 0, 2.0)


@both_ways
async def test_streams_side_by_side_are_all_whole(engine: LlamaServer, way: Way) -> None:
    async with to_engine(way, engine.url) as url:
        answers = await asyncio.gather(*(ask(url, chat(MODEL, True, max_tokens=150)) for _ in range(8)))
    for answer in answers:
        assert (answer.status, answer.complete) == (200, True)
        assert answer.events()[-1] == "[DONE]"
        assert len(answer.events()) == 150 + 3  # the role, the tokens, the finish reason, [DONE]
    assert len({said(answer)[:20] for answer in answers}) == 1


async def test_130_requests_on_one_connection_pass_the_engines_limit_of_100(engine: LlamaServer) -> None:
    async with gateway(engine.url) as url, RawClient.connect(url) as client:
        for _ in range(130):
            await client.send(chat(MODEL, max_tokens=1))
            response = await client.read_response()
            assert (response.status, response.complete) == (200, True)
            assert response.header("connection") != "close"


async def test_the_engines_close_after_each_stream_is_never_seen(engine: LlamaServer) -> None:
    async with gateway(engine.url) as url, RawClient.connect(url) as client:
        for turn in range(40):
            stream = turn % 2 == 0
            await client.send(chat(MODEL, stream, max_tokens=3))
            response = await client.read_response()
            assert (response.status, response.complete) == (200, True), f"request {turn}"
            assert b'"finish_reason":"length"' in response.body


@pytest.mark.once  # it is about the engine's side; E3 is about ours, over both twins
@pytest.mark.deadline_s(20)
async def test_the_engines_idle_close_is_never_seen(engine: LlamaServer) -> None:
    """Each gateway's second request comes just before, at, or after the moment when the engine closes its connection."""

    async def premise() -> None:
        async with RawClient.connect(engine.url) as client:
            await client.send(request(target="/health"))
            await client.read_response()
            start = time.monotonic()
            assert await client.read_until_closed(8.0) == (b"", "fin")
            assert time.monotonic() - start == pytest.approx(IDLE_CLOSE_S, abs=0.5)

    async def twice(gap_s: float) -> None:
        async with gateway(engine.url) as url, RawClient.connect(url) as client:
            for pause_s in (gap_s, 0.0):
                await client.send(chat(MODEL, max_tokens=2))
                response = await client.read_response()
                assert (response.status, response.complete) == (200, True), f"idle for {gap_s:g} s"
                await asyncio.sleep(pause_s)

    gaps = [IDLE_CLOSE_S + offset for offset in (-0.05, -0.02, -0.005, 0.0, 0.005, 0.02, 0.05, 1.0)]
    await asyncio.gather(premise(), *(twice(gap) for gap in gaps))


@both_ways
@pytest.mark.parametrize("leave", ["fin", "reset"])
async def test_a_client_that_leaves_frees_the_engine(engine: LlamaServer, way: Way, leave: str) -> None:
    await settle(engine, 0, 2.0)
    async with to_engine(way, engine.url) as url:
        client = await RawClient.connect(url)
        await client.send(chat(MODEL, True, max_tokens=LONG_TOKENS))
        response = await client.read_head()
        await client.read_until(response, b'"content":" ')
        assert await busy(engine) == 1
        if leave == "fin":
            client.close()
        else:
            client.reset()
        assert await settle(engine, 0, 1.0) < 1.0
        assert (await ask(url, chat(MODEL, max_tokens=2))).status == 200


async def test_one_of_many_streams_can_be_left(engine: LlamaServer) -> None:
    async with gateway(engine.url) as url:
        clients = [await RawClient.connect(url) for _ in range(3)]
        responses = []
        for client in clients:
            await client.send(chat(MODEL, True, max_tokens=LONG_TOKENS))
            responses.append(await client.read_head())
            await client.read_until(responses[-1], b'"content":" ')
        await settle(engine, 3, 1.0)
        for left, client in enumerate(clients[:2], start=1):
            client.close()
            await settle(engine, 3 - left, 1.0)
        seen = len(responses[2].body)
        await clients[2].read_until(responses[2], b"no such text", 0.2)
        assert responses[2].how_ended == "timeout"
        assert len(responses[2].body) > seen
        clients[2].close()
        await settle(engine, 0, 1.0)


# Warm connections and the engine's threads.


def connections_to(port: int) -> int:
    """How many established connections this machine has to ``port`` of the loopback address."""
    wanted = f"0100007F:{port:04X}"
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return sum(row[2] == wanted and row[3] == "01" for row in rows)


async def test_few_connections_stay_open_while_nothing_is_asked(engine: LlamaServer) -> None:
    async with gateway(engine.url) as url:
        assert (await ask(url, chat(MODEL, max_tokens=1))).status == 200
        await asyncio.sleep(0.3)
        assert connections_to(engine.port) <= 4


@pytest.mark.quiet
@pytest.mark.parametrize("warm", [1, 24])
async def test_warm_connections_do_not_stall_answers(tmp_path_factory: pytest.TempPathFactory, warm: int) -> None:
    """llama.cpp strands a connection without a thread for 5 s when many are dialled in one instant."""
    async with (
        LlamaServer(tmp_path_factory.mktemp("llama"), http_threads=4) as engine,
        gateway(engine.url, engine={"warm_connections": warm}) as url,
    ):
        await asyncio.sleep(0.5)
        for _ in range(3):
            start = time.monotonic()
            answers = await asyncio.gather(*(ask(url, chat(MODEL, max_tokens=1)) for _ in range(min(warm, 8))))
            assert time.monotonic() - start < 1.0
            assert {answer.status for answer in answers} == {200}
        start = time.monotonic()
        assert (await ask(engine.url, chat(MODEL, max_tokens=1))).status == 200
        assert time.monotonic() - start < 1.0
