"""What a trace tells of a fleet: each engine that was asked, and each wait. (How traces travel: ``e2e/test_traces.py``.)"""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource

from fastgw import RouteConfig
from fastgw.exchange.tracing import Tracing
from fastgw.observe.spans import Maker
from fastgw.observe.trace import Tracer
from tests.conversations.deployed_row import deployed
from tests.conversations.engine_row import status
from tests.support.conversation import Conversation, conversation
from tests.support.requests import chat
from tests.support.scripts import SSE_HEAD, ok

ENGINES: dict[str, dict[str, Any]] = {
    "a": {"models": ("m",)}, "a2": {"models": ("m",)}, "b": {"models": ("n",)}, "copy": {"models": ("o",)},
}  # fmt: skip
ROUTE = RouteConfig(model="m", fallback=["n"], fallback_on=["failure"], mirror_to="o")


def trace(talk: Conversation) -> Tracer:
    tracer = Tracer(talk.config, talk.stats, talk.events, lambda request: True, Maker(Resource({})), lambda: None)
    talk.core.tracer = Tracing(talk.config, tracer)
    return tracer


def told(tracer: Tracer) -> list[Any]:
    """The spans of the only request that has ended, and what is said of each by name."""
    [one] = tracer._waiting
    request = ExportTraceServiceRequest()
    request.ParseFromString(Maker(Resource({})).request([one]))
    return list(request.resource_spans[0].scope_spans[0].spans)


def about(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_each_engine_that_was_asked_is_a_span_by_its_model_and_its_answer() -> None:
    """Refusals, a stream that ended before its first event, another model; a tunnel has no address, a copy no span."""
    broke = lambda asked: (asked.says(SSE_HEAD), asked.closes("reset"))  # noqa: E731
    plays = {"a": status(503), "a2": broke}
    with deployed(ENGINES, ROUTE, plays=plays, policy="ordered", retry_statuses=["503"]) as row:  # type: ignore[arg-type]
        tracer = trace(row.talk)
        assert row.ask(chat(stream=True)).status == 200
        row.talk.passes(0.1)
        row.engines["b"].engine.tunnelled = True
        clients = [span for span in told(tracer) if span.kind == 3]
        said = [about(span) for span in clients]
        assert [one["fastgw.engine"] for one in said] == ["a", "a2", "b"]
        assert [span.name for span in clients] == ["chat m", "chat m", "chat n"]
        assert [one["gen_ai.request.model"] for one in said] == ["m", "m", "n"]
        assert [one.get("http.response.status_code") for one in said] == [503, None, 200]
        assert [one.get("error.type") for one in said] == ["503", "no_answer", None]
        assert ["server.address" in one for one in said] == [True, True, False]
        assert said[2]["fastgw.tunnelled"] is True
        parents = [row.engines[name].last.field(b"traceparent") for name in ENGINES]
        ids = [f"00-{one.trace_id.hex()}-{one.span_id.hex()}-01".encode() for one in clients]
        assert parents == [*ids, None], "a copy is nobody's request"


@pytest.mark.parametrize("waits", [False, True])
def test_each_wait_for_room_is_a_span_where_it_was(waits: bool) -> None:
    with conversation(1, max_concurrent=1, queue_timeout_s=5.0) as talk:
        [engine] = talk.engines
        first, late = talk.client(), talk.client()
        if waits:
            first.says(chat(content="first"))
        tracer = trace(talk)
        late.says(chat(content="late"))
        if waits:
            talk.passes(1.0)
            engine.last.says(ok())
        talk.passes(0.5)
        engine.last.says(ok())
        late.sees(200)
        spans = told(tracer)
        names = [span.name for span in spans]
        assert names[1:] == ["receive", *(["queue"] if waits else []), "chat m", "connect", "first token", "stream"]
        if waits:
            queue = spans[2]
            assert 0.9 < (queue.end_time_unix_nano - queue.start_time_unix_nano) / 1e9 < 1.2
            assert spans[1].end_time_unix_nano <= queue.start_time_unix_nano
            assert queue.end_time_unix_nano <= spans[3].start_time_unix_nano


def test_an_error_behind_a_heartbeat_is_one_though_its_status_is_a_good_one() -> None:
    with conversation(1, sse_heartbeat_s=1.0) as talk:
        tracer = trace(talk)
        client = talk.client().says(chat(stream=True))
        talk.passes(1.5)
        talk.engines[0].last.closes("reset")
        client.sees(200)
        [server] = [span for span in told(tracer) if span.kind == 2]
        assert (about(server)["http.response.status_code"], about(server)["error.type"]) == (200, "bad_gateway")
        assert server.status.code == 2
