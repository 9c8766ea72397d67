"""Traces over real sockets, as a collector gets them: S2.12, S2.17, and M4 (a collector that is no good)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import enumerate as enumerate_threads
from time import time
from typing import Any

import pytest

from fastgw import Config, EngineConfig, Gateway, StartError
from fastgw.config.load import load
from fastgw.config.table import DEFAULTS
from fastgw.observe import trace
from fastgw.observe.logs import access_fields
from fastgw.sim import SimConfig, Simulator
from tests.e2e.engine_row import BACK_PRESSURE, status
from tests.e2e.engines import QUIET, pool_engine, scripted
from tests.e2e.engines import posts as scripted_posts
from tests.e2e.identity import FORM_TYPE, UPLOADS, fields_of, form, posts
from tests.e2e.test_cases_e_upstream import probed
from tests.support.client import RawClient, chat, request
from tests.support.collector import Span, collecting
from tests.support.gateway import Running, running
from tests.support.ports import closed_port

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED = ("traceparent", f"00-{TRACE_ID}-{PARENT}-01")
KEY = "sk-traced-0123456789"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "DELAY_S", 0.02)
    monkeypatch.setattr(trace, "STOP_S", 0.2)


@asynccontextmanager
async def traced(
    collector: str = "", *engines: EngineConfig, h2: bool = False, **settings: Any
) -> AsyncIterator[tuple[Running, Simulator, RawClient]]:
    """A gateway that sends traces to ``collector``, before ``engines`` and a simulated one."""
    settings = {"otlp_endpoint": collector, **settings} if collector else settings
    settings = {"enable_otlp_tracing": True, "api_keys": (KEY,), "policy": "ordered", **settings}
    async with Simulator(SimConfig(any_model=True, output_tokens=3, h2=h2)) as sim:
        last = EngineConfig(url=sim.url, name="sim", kind="vllm", models=("m",), protocol="h2" if h2 else "h1")
        async with running([*engines, last], **settings) as gw, await gw.client() as client:
            yield gw, sim, client


async def ask(client: RawClient, *headers: tuple[str, str], **options: Any) -> None:
    await client.send(chat("m", key=options.pop("key", KEY), headers=headers, **options))
    await client.read_response()


def inside(inner: Span, outer: Span) -> bool:
    return outer.start <= inner.start <= inner.end <= outer.end


@pytest.mark.parametrize("h2", [False, True], ids=["h1", "h2"])
@pytest.mark.parametrize("stream", [False, True])
async def test_S2_12_a_request_is_one_trace_from_client_to_engine(stream: bool, h2: bool) -> None:
    """The client's span is the parent of ours, ours of the attempt's, and that is what the engine is told."""
    async with collecting() as collector, traced(collector.url, h2=h2) as (gw, sim, client):
        began = time()
        headers = (SAMPLED, ("tracestate", "a=1, b=2"), ("x-request-id", "of-the-client"))
        await ask(client, *headers, stream=stream, content="prompt-words")
        await collector.until()
        server = collector.server()
        assert (server.trace_id, server.parent, server.state) == (TRACE_ID, PARENT, "a=1,b=2")
        assert (server.name, server.service, server.failed) == ("POST /v1/chat/completions", "fastgw", False)
        said = {
            "http.request.method": "POST", "http.route": "/v1/chat/completions", "http.response.status_code": 200,
            "url.scheme": "http", "network.protocol.version": "1.1", "client.address": "127.0.0.1",
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "vllm", "gen_ai.request.model": "m",
            "gen_ai.response.model": "m", "gen_ai.usage.output_tokens": 3, "fastgw.request_id": "of-the-client",
            "fastgw.outcome": "ok", "fastgw.engine": "sim",
        }  # fmt: skip
        assert said.items() <= server.about.items()
        assert server.about["gen_ai.usage.input_tokens"] > 0
        assert server.about.get("gen_ai.request.stream", False) is stream
        receive, attempt = collector.below(server)
        assert (receive.name, attempt.name, attempt.kind) == ("receive", "chat m", 3)
        assert {"server.port": sim.port, "server.address": "127.0.0.1"}.items() <= attempt.about.items()
        assert [span.name for span in collector.below(attempt)][:2] == ["connect", "first token"]
        assert all(inside(span, server) for span in collector.spans)
        assert abs(server.start / 1e9 - began) < 5
        fields = fields_of(posts(sim)[0])
        assert fields[b"traceparent"] == [f"00-{TRACE_ID}-{attempt.span_id}-01".encode()]
        assert fields[b"tracestate"] == [b"a=1,b=2"]
        assert access_fields(gw.raw_records[0])["trace_id"] == TRACE_ID
        await gw.until("it is counted", lambda: gw.stats.traces_exported == 1)
        assert "prompt-words" not in str(collector.spans), "prompts are in no trace that nobody asked for them"
        assert KEY not in str(collector.spans)


async def test_S2_12_a_trace_begins_here_and_each_attempt_is_a_span() -> None:
    """Without a parent it is a new one. Engines that refuse connections, or are full, are in it, and what they did."""
    dead = EngineConfig(url=f"http://127.0.0.1:{closed_port()}", name="dead", models=("m",))
    async with scripted(status(503)) as full, collecting() as collector:
        busy = EngineConfig(url=full.url, name="busy", models=("m",))
        async with traced(collector.url, dead, busy, retry_statuses=BACK_PRESSURE, **QUIET) as (gw, sim, client):
            await probed(gw)
            pool_engine(gw).healthy = True  # (as it was until it died)
            await ask(client)
            await collector.until()
            server = collector.server()
            assert server.parent == ""
            attempts = [span for span in collector.below(server) if span.kind == 3]
            assert [span.about["fastgw.engine"] for span in attempts] == ["dead", "busy", "sim"]
            assert [span.failed for span in attempts] == [True, True, False]
            assert [span.about.get("error.type") for span in attempts] == ["no_connection", "503", None]
            assert "answered 503" in attempts[1].why
            assert [span.about.get("http.request.resend_count") for span in attempts] == [None, 1, 2]
            told = [scripted_posts(full)[0].header(b"traceparent"), *fields_of(posts(sim)[0])[b"traceparent"]]
            assert told == [f"00-{server.trace_id}-{span.span_id}-01".encode() for span in attempts[1:]]
            assert attempts[0].end <= attempts[1].start
            assert attempts[1].end < attempts[2].start, "the pause between is no part of it"


UPLOAD = request("POST", UPLOADS, headers=[FORM_TYPE, SAMPLED], body=form("m"), key=KEY)
JSON = ("content-type", "application/json")
EMBEDDING = request("POST", "/v1/embeddings", headers=[JSON, SAMPLED], body=b'{"model":"m","input":"a"}', key=KEY)


SHAPES = {"upload": (UPLOAD, f"POST {UPLOADS}"), "embedding": (EMBEDDING, "embeddings m")}


@pytest.mark.parametrize(("asked", "name"), SHAPES.values(), ids=SHAPES)
async def test_S2_12_whatever_is_asked_the_engine_is_told_of_our_span(asked: bytes, name: str) -> None:
    async with collecting() as collector, traced(collector.url) as (_, sim, client):
        assert (await client.ask(asked)).status == 200
        await collector.until()
        [attempt] = [span for span in collector.below(collector.server()) if span.kind == 3]
        assert attempt.name == name
        assert fields_of(posts(sim)[0])[b"traceparent"] == [f"00-{TRACE_ID}-{attempt.span_id}-01".encode()]


async def test_S2_12_a_call_that_requests_share_is_in_the_trace_of_each_and_carries_none() -> None:
    merging = {"embedding_merge_s": 0.1, "embedding_merge_inputs": 2}
    async with collecting() as collector, traced(collector.url, **merging) as (gw, sim, client):
        async with await gw.client() as other:
            await asyncio.gather(client.ask(EMBEDDING), other.ask(EMBEDDING))
        await collector.until(2)
        servers = [span for span in collector.spans if span.kind == 2]
        assert [[span.name for span in collector.below(one)] for one in servers] == [["receive", "embeddings m"]] * 2
        assert b"traceparent" not in fields_of(posts(sim)[0])
        assert len(posts(sim)) == 1


async def test_S2_17_a_line_of_an_error_says_which_request_it_was() -> None:
    async with collecting() as collector, traced(collector.url, expect_internal_errors=True) as (gw, _, client):
        core = gw.gateway.core
        assert core is not None
        core.walk = (lambda exchange: exchange.no_such_thing,)
        await ask(client, SAMPLED, ("x-request-id", "of-the-client"))
        ((_, message, told),) = gw.events.errors()
        assert message == "internal error"
        assert {"request_id": "of-the-client", "trace_id": TRACE_ID}.items() <= told.items()
        await collector.until()
        assert collector.server().failed


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_S2_12_what_opentelemetrys_variables_say_holds(protocol: str) -> None:
    """Both protocols, to receivers that decode what comes: where it goes, with which fields, packed, and whose it is."""
    async with collecting(protocol=protocol) as collector:
        said = load(
            {},
            {
                "OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                "OTEL_EXPORTER_OTLP_HEADERS": "X-Scope=a%20b,authorization=Bearer%20of-the-collector",
                "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip", "OTEL_EXPORTER_OTLP_TIMEOUT": "9000",
                "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=a%20test,service.name=unheard",
                "OTEL_SERVICE_NAME": "shop-gateway",
            },
            "/nowhere",
        )  # fmt: skip
        told = {name: getattr(said, name) for name in DEFAULTS if name.startswith(("otlp_", "otel_"))}
        async with traced(**told) as (gw, sim, client):
            await ask(client, SAMPLED)
            await collector.until()
            server = collector.server()
            [attempt] = [span for span in collector.below(server) if span.kind == 3]
            assert (server.trace_id, server.parent, server.service) == (TRACE_ID, PARENT, "shop-gateway")
            assert fields_of(posts(sim)[0])[b"traceparent"] == [f"00-{TRACE_ID}-{attempt.span_id}-01".encode()]
            assert server.of["deployment.environment.name"] == "a test"
            assert {"x-scope": "a b", "authorization": "Bearer of-the-collector"}.items() <= collector.fields.items()
            assert protocol == "grpc" or collector.fields["content-encoding"] == "gzip"
            await gw.until("it is counted", lambda: gw.stats.traces_exported == 1)
            assert "of-the-collector" not in f"{gw.gateway.config!r} {gw.events.lines}"


async def test_S2_12_who_turns_the_sdk_off_has_no_traces() -> None:
    async with collecting() as collector, traced(collector.url, otel_sdk_disabled=True) as (gw, sim, client):
        await ask(client, SAMPLED)
        assert fields_of(posts(sim)[0])[b"traceparent"] == [SAMPLED[1].encode()], "as it came"
        assert gw.gateway.core.tracer is None  # type: ignore[union-attr]
        assert any("otel_sdk_disabled" in note for note in gw.gateway.config.warnings)


SAMPLING = [
    ("parentbased_always_on", 1.0, None, True), ("parentbased_always_on", 1.0, "00", False),
    ("parentbased_always_off", 1.0, None, False), ("parentbased_always_off", 1.0, "01", True),
    ("always_off", 1.0, "01", False), ("always_on", 0.0, "00", True),
    ("traceidratio", 0.0, "01", False), ("traceidratio", 1.0, "00", True),
    ("parentbased_traceidratio", 0.0, None, False), ("parentbased_traceidratio", 0.0, "01", True),
]  # fmt: skip


@pytest.mark.parametrize(("sampler", "ratio", "flags", "sampled"), SAMPLING)
async def test_S2_12_who_is_sampled_and_what_is_told(sampler: str, ratio: float, flags: str | None, sampled: bool) -> None:
    async with collecting() as collector, traced(collector.url, trace_sampler=sampler, trace_ratio=ratio) as (gw, sim, client):
        await ask(client, *([("traceparent", f"00-{TRACE_ID}-{PARENT}-{flags}")] if flags else []))
        told = fields_of(posts(sim)[0])[b"traceparent"][0].decode()
        assert told.endswith("-01" if sampled else "-00")
        assert (told[3:35] == TRACE_ID) is (flags is not None)
        assert told[36:52] != PARENT
        if sampled:
            await collector.until()
        assert gw.raw_records[0].trace_id == told[3:35]
    assert len([span for span in collector.spans if span.kind == 2]) == sampled


async def test_S2_12_refusals_are_traced_and_what_is_answered_here_is_not() -> None:
    async with collecting() as collector, traced(collector.url) as (_, sim, client):
        await client.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.read_response()
        await ask(client, key="sk-of-nobody")
        await collector.until()
        server = collector.server()
        assert (server.about["http.response.status_code"], server.failed) == (401, False)
        assert server.about["error.type"] == "invalid_api_key"
        assert posts(sim) == []


@pytest.mark.parametrize("stream", [False, True])
async def test_prompts_and_answers_are_there_where_they_are_asked_for(stream: bool) -> None:
    async with collecting() as collector, traced(collector.url, trace_contents=True) as (_, _sim, client):
        await ask(client, stream=stream, content="prompt-words")
        await ask(client, stream=stream, content="x" * 70_000)
        await collector.until(2)
        one, other = (span.about for span in collector.spans if span.kind == 2)
        assert one["gen_ai.input.messages"] == '[{"role":"user","parts":[{"type":"text","content":"prompt-words"}]}]'
        assert one["gen_ai.output.messages"].startswith('[{"role":"assistant","parts":[{"type":"text","content":"')
        assert "fastgw.contents.cut" not in one
        assert other["fastgw.contents.cut"] is True
        assert "gen_ai.input.messages" not in other


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("trouble", ["dead", "slow", "busy", "refuses"])
async def test_M4_a_collector_that_is_no_good_costs_nobody_anything(trouble: str, protocol: str) -> None:
    """Requests are answered as ever, what waits is bounded, what is lost is counted, and the gateway stops in its time."""
    async with collecting({"dead": 200, "slow": 0, "busy": 503, "refuses": 400}[trouble], protocol) as collector:
        url = f"http://127.0.0.1:{closed_port()}" if trouble == "dead" else collector.url
        async with traced(url, trace_queue_size=4, otlp_protocol=protocol) as (gw, sim, client):
            await ask(client)
            if trouble != "refuses":
                await gw.until("the thread has it", lambda: not gw.gateway.core.tracer.reporter._waiting)  # type: ignore[union-attr]
            async with asyncio.timeout(5):
                for _ in range(12):
                    await ask(client)
            assert len(posts(sim)) == 13
            if trouble != "refuses":
                assert gw.stats.traces_dropped == 8
                assert len(gw.gateway.core.tracer.reporter._waiting) == 4  # type: ignore[union-attr]
            began = time()
            await gw.gateway.stop()
            assert time() - began < 2
            if trouble != "slow":
                await gw.until("nobody tries on", lambda: "fastgw-traces" not in [one.name for one in enumerate_threads()])
        lost = gw.stats.traces_dropped + gw.stats.traces_failed
        assert gw.stats.traces_exported == 0
        if trouble == "refuses":
            assert lost == 13
            assert [line[1] for line in gw.events.lines if "traces" in line[1]] == ["traces are lost"]


async def test_who_lacks_the_sdk_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fastgw.observe.trace", None)
    with pytest.raises(StartError, match=r"pip install 'fastgw\[otel\]'"):
        await Gateway(Config(port=0, enable_otlp_tracing=True)).start()
