"""What may wait for a collector, and who gets a place there: between clients and engines by hand, without a thread that sends.
(What a collector sees, ``e2e/test_traces.py`` shows.)"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource

from fastgw import Config
from fastgw.exchange.call import Call
from fastgw.exchange.tracing import Trace, Tracing
from fastgw.net.client import NO_HEAD
from fastgw.observe import trace
from fastgw.observe.logs import AccessJson
from fastgw.observe.spans import Finished, Maker
from fastgw.observe.trace import Tracer
from tests.support.conversation import KEY, Conversation, conversation
from tests.support.requests import chat
from tests.support.scripts import ok


class Nobody:
    """A reporter that nothing is told."""

    def start(self, loop: Any) -> None: ...
    def ended(self, exchange: Any, outcome: str, now: float) -> None: ...
    def follow(self, config: Config) -> None: ...
    async def close(self) -> None: ...


@contextmanager
def traced(**settings: Any) -> Iterator[tuple[Conversation, Tracer]]:
    settings = {"enable_otlp_tracing": True, "api_keys": [KEY], **settings}
    with conversation(engines=1, **settings) as talk:
        tracer = Tracer(talk.config, talk.stats, talk.events, lambda request: True, Maker(Resource({})), lambda: None)
        talk.core.tracer = Tracing(talk.config, tracer)
        yield talk, tracer


def answered(talk: Conversation, content: str = "words") -> None:
    client = talk.client()
    client.says(chat(key=KEY, content=content))
    talk.engines[0].last.says(ok())
    client.sees(200)


def test_a_line_of_the_log_names_the_trace() -> None:
    lines: list[bytes] = []
    with traced() as (talk, tracer):
        lines_of = AccessJson()
        ended = tracer.ended

        def seen(exchange: Any, outcome: str, now: float) -> None:
            lines.append(lines_of.of(exchange, outcome, now))
            ended(exchange, outcome, now)

        tracer.ended = seen  # type: ignore[method-assign]
        answered(talk)
        assert json.loads(lines[0])["trace_id"] == tracer._waiting[0].trace_id.decode() == talk.raw_records[0].trace_id


def test_what_costs_its_sender_nothing_crowds_nobody_out() -> None:
    with traced(log_flood_rate=2) as (talk, tracer):
        for _ in range(7):
            assert talk.ask(chat(key="sk-of-nobody")).status == 401
        answered(talk)
        assert [one.record.status for one in tracer._waiting] == [401, 401, 200]
        assert talk.stats.traces_dropped == 5


def test_the_queue_and_what_it_holds_of_contents_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contents that find no room are left out; the trace is not."""
    monkeypatch.setattr(trace, "MAX_CONTENTS_BYTES", 4000)
    with traced(trace_contents=True, trace_queue_size=3) as (talk, tracer):
        for _ in range(5):
            answered(talk, "x" * 1500)
        assert [(bool(one.prompt), one.cut) for one in tracer._waiting] == [(True, False), (True, False), (False, True)]
        assert talk.stats.traces_dropped == 2
        tracer._send([tracer._waiting.popleft() for _ in range(3)])
        answered(talk, "x" * 1500)
        assert tracer._waiting[-1].prompt, "there is room again"
        assert talk.stats.traces_exported == 3


def test_contents_that_come_while_a_batch_is_sent_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread sends in the middle of whatever the loop does, and the loop in the middle of what the thread does."""
    monkeypatch.setattr(trace, "MAX_CONTENTS_BYTES", 4000)
    with traced(trace_contents=True) as (talk, tracer):
        answered(talk, "x" * 1500)
        whole = Finished.size.fget  # type: ignore[attr-defined]

        def another_comes(one: Finished) -> int:
            monkeypatch.setattr(Finished, "size", property(whole))
            answered(talk, "x" * 1500)
            return int(whole(one))

        monkeypatch.setattr(Finished, "size", property(another_comes))
        tracer._send([tracer._waiting.popleft()])
        answered(talk, "x" * 1500)
        answered(talk, "x" * 1500)
        assert [bool(one.prompt) for one in tracer._waiting] == [True, True, False], "there is room for two"


@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
def test_a_share_goes_by_the_trace_id_alone(ratio: float) -> None:
    ids = [b"%016x%016x" % (at, at * (1 << 64) // 64) for at in range(64)]
    tracing = Tracing(Config(trace_sampler="traceidratio", trace_ratio=ratio), Nobody())
    assert sum(tracing.samples(one, -1) for one in ids) == 64 * ratio
    assert [tracing.samples(one, -1) for one in ids] == [tracing.samples(one, 1) for one in ids]


def test_each_request_has_ids_of_its_own() -> None:
    tracing = Tracing(Config(), Nobody())
    begun = [tracing.begin(NO_HEAD, True) for _ in range(300)]
    assert len({one.trace_id for one in begun} | {one.span_id for one in begun}) == 600
    assert all(int(one.trace_id, 16) and int(one.span_id, 16) and len(one.trace_id + one.span_id) == 48 for one in begun)


def test_a_request_that_is_sent_again_and_again_has_so_many_attempts_and_waits() -> None:
    one = Trace(b"1" * 32, b"2" * 16, b"", True, b"")
    calls = [Call.__new__(Call) for _ in range(40)]
    for at, call in enumerate(calls):
        one.waited(at, at + 0.5)
        one.asks(call, "m", f"why {at}")
    assert one.asked is not None
    assert [asked.call for asked in one.asked] == [*calls[:15], calls[-1]]
    assert [asked.why for asked in one.asked] == [*(f"why {at + 1}" for at in range(15)), ""]
    assert one.waits == [*((float(at), at + 0.5) for at in range(15)), (39.0, 39.5)]
