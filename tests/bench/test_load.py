"""Loads over sockets: what is measured of engines whose times are known, and what is said of those that fail."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import msgspec
import pytest

from fastgw.bench.arrivals import Arrival
from fastgw.bench.connection import now
from fastgw.bench.plan import Plan, Slo, Stage
from fastgw.bench.run import Refused, Run
from fastgw.bench.tally import Result
from fastgw.bench.trace import Row
from fastgw.sim import ScriptedConnection, ScriptedEngine, SimConfig, Simulator
from tests.bench.measured import measured, planned
from tests.support import pki
from tests.support.ports import closed_port

STREAM = Stage(True, workers=2, requests=6)
PLAIN = Stage(False, workers=2, requests=6)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TEXT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(TEXT), TEXT)
END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"

pytestmark = [pytest.mark.once, pytest.mark.together]  # (what reads answers, `test_answer` tries in both twins)


async def test_what_is_measured_is_what_the_engine_does() -> None:
    async with Simulator(SimConfig(ttft_ms=40.0, itl_ms=20.0)) as sim:
        plain, stream = await measured(sim.url, PLAIN, STREAM)
        assert sim.state.served == 12
    assert (plain.begun, plain.good, plain.failed, plain.left, plain.status) == (6, 6, 0, 0, "ok")
    assert plain.latency_s.least >= 0.095
    assert (stream.good, stream.tokens.texts, stream.tokens.completion_told, stream.tokens.differ) == (6, 24, 24, 0)
    assert stream.ttft_s.n == 6
    # (The engine's own times are the least of them; whoever shares the machine may make others longer.)
    assert stream.ttft_s.least >= 0.039
    assert stream.ttft_s.p50 <= stream.latency_s.p50 - 0.02
    assert stream.tpot_s.most >= 0.018
    assert stream.gap_s.p50 <= stream.latency_s.p50 / 2
    assert stream.latency_s.least >= 0.095
    assert plain.connections + stream.connections == 2
    assert stream.rps == pytest.approx(6 / stream.duration_s)


FAULTS = {
    "status=503": "status 503",
    "close": "no answer",
    "reset": "no answer",
    "garbage": "not HTTP",
    "endless-head": "not HTTP",
    "stall-before": "timeout",
    "close-after-events=2": "truncated",
    "reset-after-events=2": "truncated",
    "end-after-events=2": "truncated",
    "stall-after-events=2": "timeout",
    "half-event,clean-end": "truncated",
    "bad-chunk": "not HTTP",
    "error-event": "error event",
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_engine_that_fails_is_told_by_how(fault: str) -> None:
    async with Simulator() as sim:
        limit = 0.4 if "stall" in fault else 10.0
        [found] = await measured(sim.url, Stage(True, workers=2, requests=2), fault=fault, timeout_s=limit)
    assert [(one.kind, one.count) for one in found.failures] == [(FAULTS[fault], 2)]
    assert (found.begun, found.good, found.failed, found.latency_s.n) == (2, 0, 2, 0)
    assert found.failures[0].first
    assert found.status == f"2 failed: {FAULTS[fault]}"


@pytest.mark.parametrize("fault", ["split=7", "one-byte-chunks", "1xx=2", "http10", "slow-head=1", "close-after-answer"])
async def test_an_engine_that_is_only_odd_is_not(fault: str) -> None:
    async with Simulator() as sim:
        stages = [Stage(stream, workers=1, requests=2) for stream in (False, True)]
        plain, stream = await measured(sim.url, *stages, fault=fault)
    assert (plain.status, stream.status, stream.tokens.texts) == ("ok", "ok", 8)


async def test_a_refusal_leaves_its_connection_and_one_that_the_server_closed_is_dialled_again() -> None:
    async with Simulator() as sim:
        [found] = await measured(sim.url, Stage(False, workers=1, requests=3), fault="status=429")
        assert (found.failed, found.connections) == (3, 1)
        [found] = await measured(sim.url, Stage(False, workers=1, requests=4), fault="close-on-reuse")
    assert (found.good, found.failed, found.connections) == (4, 0, 4)
    assert found.redialled == 3


async def test_a_stall_is_counted_and_breaks_the_slo() -> None:
    async def handler(conn: ScriptedConnection) -> None:
        for number in range(4):
            await conn.read_request()
            await conn.send(HEAD + CHUNK + CHUNK)
            await asyncio.sleep(0.6 if number == 2 else 0.02)
            await conn.send(CHUNK + END)

    async with ScriptedEngine(handler) as engine:
        stage = Stage(True, workers=1, requests=4)
        [found] = await measured(engine.url, stage, stall_s=0.4, slo=Slo(itl=0.4, ttft=9.0))
    assert (found.good, found.stalls, found.stalled, found.within_slo) == (4, 1, 1, 3)
    assert found.goodput == pytest.approx(3 / found.duration_s)
    assert (found.coalesced, found.gap_s.n, found.without_reason) == (4, 4, 4)
    assert found.gap_s.most >= 0.59


@pytest.mark.parametrize("stage", [
    Stage(True, rate=1000.0, requests=4), Stage(True, trace=tuple(Arrival(0.0, (Row(0.0, 9, 4),)) for _ in range(4))),
])  # fmt: skip
async def test_an_open_load_counts_from_when_a_request_was_due(stage: Stage) -> None:
    """Of four that are due at once and answered one after the other the last waits for three: closed, all look the same."""
    async with Simulator(SimConfig(ttft_ms=60.0)) as sim:
        [found] = await measured(sim.url, stage, in_flight=1)
        [closed] = await measured(sim.url, Stage(True, workers=1, requests=4))
    assert found.good == 4
    assert found.ttft_s.most >= 0.2
    assert not stage.trace or found.delayed == 3
    # However slow the machine is: times of one worker's requests lie side by side, those of people who wait overlap.
    assert found.ttft_s.mean * 4 > 1.5 * found.duration_s
    assert closed.ttft_s.mean * 4 <= closed.duration_s


async def test_whoever_says_in_the_body_how_long_an_answer_may_be_is_held_to_nothing_else() -> None:
    async with Simulator() as sim:
        one = Stage(True, workers=1, requests=1)
        [held] = await measured(sim.url, one, fault="tokens=9")
        [free] = await measured(sim.url, one, fault="tokens=9", extra={"max_completion_tokens": 9})
    assert held.status == "1 failed: too long"
    assert (free.status, free.tokens.completion_told) == ("ok", 9)


async def test_a_session_repeats_all_that_was_said() -> None:
    async with Simulator(SimConfig(models=["sim"])) as sim:
        [found] = await measured(sim.url, Stage(True, workers=1, requests=6), turns=3, prompt_tokens=100, turn_tokens=10)
        bodies = [msgspec.json.decode(one.body) for one in sim.requests.to("/v1/chat/completions")]
    assert (found.good, len(bodies)) == (6, 6)
    first, second, third, again, *_ = [body["messages"] for body in bodies]
    assert [one["role"] for one in third] == ["user", "assistant", "user", "assistant", "user"]
    assert second[:1] == first
    assert third[:3] == second
    assert second[1]["content"]
    assert [len(one["content"]) for one in third[::2]] == [400, 40, 40]
    assert [one["role"] for one in again] == ["user"]
    assert again[0]["content"][:64] != first[0]["content"][:64]
    assert found.tokens.prompt_estimated == pytest.approx(found.tokens.prompt_told, rel=0.3)


async def test_a_trace_says_when_how_long_and_in_which_order() -> None:
    trace = (Arrival(0.0, (Row(0.0, 50, 3), Row(0.15, 100, 2))), Arrival(0.05, (Row(0.05, 25, 1),)))
    async with Simulator() as sim:
        began = now()
        [found] = await measured(sim.url, Stage(False, trace=trace, requests=3), traced=True)
        took = now() - began
        bodies = [msgspec.json.decode(one.body) for one in sim.requests.to("/v1/chat/completions")]
    assert (found.good, found.name, found.load) == (3, "trace", "trace")
    assert took >= 0.15
    said = [[one["content"] for one in body["messages"]] for body in bodies]
    asked = [(body["max_tokens"], len(texts), len("".join(texts))) for body, texts in zip(bodies, said, strict=True)]
    assert asked[0] == (3, 1, 200)
    assert sorted(asked) == [(1, 1, 100), (2, 3, pytest.approx(400, abs=4)), (3, 1, 200)]


async def test_when_the_time_is_up_what_is_under_way_is_waited_for() -> None:
    async with Simulator(SimConfig(ttft_ms=150.0)) as sim:
        [found] = await measured(sim.url, Stage(True, workers=3, duration_s=0.2))
    assert found.begun == found.good
    assert 3 <= found.begun <= 6
    assert found.duration_s >= 0.15


@pytest.mark.parametrize("stage", [Stage(True, workers=2, requests=100), Stage(True, rate=200.0, requests=1000)])
async def test_whoever_ends_it_gets_what_there_is(stage: Stage) -> None:
    results: list[Result] = []
    async with Simulator(SimConfig(ttft_ms=50.0)) as sim:
        run = Run(planned(sim.url), [stage, PLAIN])
        running = asyncio.create_task(run.all(results))
        while run.load is None or run.load.tally.good < 2:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.005)
        run.stop()
        await running
    [found] = results
    assert run.stopped
    assert found.good >= 2
    assert found.begun == found.good + found.left
    assert found.left == 2 or not stage.workers


async def test_nothing_is_measured_where_nobody_listens() -> None:
    port = closed_port()
    with pytest.raises(Refused, match=r"no connection: .*--url"):
        await measured(f"http://127.0.0.1:{port}", PLAIN, warmup=1)
    [found] = await measured(f"http://127.0.0.1:{port}", Stage(False, workers=1, requests=2))
    assert found.failures[0].kind == "no connection"


async def test_a_server_with_a_certificate_is_believed_by_its_ca_alone(tmp_path: Path) -> None:
    authority = pki.Authority(tmp_path)
    pair = authority.issue("server", "localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)

    async def handler(conn: ScriptedConnection) -> None:
        await conn.read_request()
        await conn.send(HEAD + CHUNK + CHUNK + END)

    async with ScriptedEngine(handler, ssl_context=context) as engine:
        url, stage = f"https://localhost:{engine.port}", Stage(True, workers=1, requests=1)
        [believed] = await measured(url, stage, ca_file=authority.ca)
        [strange] = await measured(url, stage)
        [anything] = await measured(url, stage, insecure=True)
    assert (believed.status, anything.status) == ("ok", "ok")
    assert "the certificate is not believed" in strange.failures[0].first


async def test_the_key_is_shown_to_the_server_and_nobody_else(tmp_path: Path) -> None:
    async with Simulator(SimConfig(api_key="sk-secret")) as sim:
        unix = Simulator(SimConfig(unix=str(tmp_path / "s"), api_key="sk-secret"))
        [well] = await measured(sim.url, PLAIN, key="sk-secret")
        [unknown] = await measured(sim.url, Stage(False, workers=1, requests=1), key="sk-other")
        async with unix:
            [local] = await measured(unix.url, PLAIN, key="sk-secret", api="completions")
    assert (well.status, local.status) == ("ok", "ok")
    assert unknown.failures[0].kind == "status 401"
    assert "sk-" not in msgspec.json.encode([well, unknown]).decode()


def test_the_plan_says_where_it_asks() -> None:
    plan: Plan = planned("https://api.example.com/base/v1", api="completions")
    assert plan.url == "https://api.example.com:443/base/v1/completions"


@pytest.mark.parametrize(("fault", "why"), [
    ("status=401", "OPENAI_API_KEY"), ("status=403", "another --model"), ("status=404", "/v1/models"),
    ("status=400", "--extra"), ("status=405", "--api"), ("status=429", ""), ("status=503", ""), ("reset", ""),
])  # fmt: skip
async def test_a_warm_up_that_was_refused_ends_it_and_says_what_to_do(fault: str, why: str) -> None:
    """What may be better a moment later is measured all the same."""
    async with Simulator() as sim:
        asked = measured(sim.url, PLAIN, warmup=2, fault=fault)
        if why:
            with pytest.raises(Refused, match=why):
                await asked
            assert len(sim.requests.to("/v1/chat/completions")) == 2
        else:
            [found] = await asked
            assert (found.good, found.failed) == (0, 6)


async def test_what_was_measured_before_a_refusal_stays() -> None:
    """An engine that has no streams: its first table is told."""
    async def handler(conn: ScriptedConnection) -> None:
        while (asked := await conn.read_request()) is not None:
            refused = b'"stream":true' in asked.body
            body = b'{"error":"no streams"}' if refused else b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}'
            status = b"400 Bad Request" if refused else b"200 OK"
            length = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            await conn.send(b"HTTP/1.1 %b\r\n%b%b" % (status, length, body))

    results: list[Result] = []
    async with ScriptedEngine(handler) as engine:
        with pytest.raises(Refused, match="status 400: no streams"):
            await Run(planned(engine.url, warmup=1), [PLAIN, STREAM]).all(results)
    assert [found.good for found in results] == [6]
