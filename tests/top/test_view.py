"""Which metric becomes which figure, and who comes first."""

from __future__ import annotations

import pytest

from fastgw.top.samples import Page
from fastgw.top.view import EngineTold, Percentiles, events_told, reading
from tests.top.pages import looked, text


def test_the_gateway() -> None:
    own = looked().gateway
    assert (own.version, own.uptime_s, own.requests_per_s, own.errors_per_s) == ("1.2.3", 93_784.0, 124.7, 0.7)
    assert (own.refused_per_s, own.active, own.waiting, own.completion_tokens_per_s) == (4.0, 43, 3, 2000), "of budgets too"
    assert own.broken_off_per_s == 2.0, "a stream that broke off was answered 200"
    assert (own.store_up, own.restart_pending, own.lag_p99_s) == (False, True, None)


def test_engines_that_are_not_well_come_first() -> None:
    found = looked()
    assert [(one.name, one.state) for one in found.engines] == [
        ("b", "draining"), ("a", "breaker open"), ("c", "not well"), ("d", "unknown"),
    ]  # fmt: skip
    (one, *_) = found.engines
    assert (one.inflight, one.slots, one.requests_per_s, one.errors_per_s, one.kv_usage) == (40, 64, 90, 0, 0.425)
    assert (one.ttft_s, found.engines[1].ttft_s) == (Percentiles(0.12, 0.4567, 12.5), None)


def test_models_and_gpus() -> None:
    found = looked()
    assert [one.model for one in found.models] == ["llama", 'b"\\\n\x1b[2J']
    assert (found.models[0].tokens_per_s, round(found.models[0].ttft_p50_s or 0, 3)) == (2000, 0.083)
    assert [(one.gpu, one.uuid, one.up, one.utilization) for one in found.gpus] == [
        ("0", "GPU-2", False, None), ("0", "GPU-1", True, 97),
    ], "one has fallen off the bus, and another has its number now"  # fmt: skip


def test_callers_who_use_something_and_who_uses_most_first() -> None:
    found = looked()
    assert [(one.caller, one.requests_per_s, one.tokens_per_s) for one in found.callers] == [
        ("key_2", 30, 1800), ("key_1", 90, 200),
    ]  # fmt: skip
    assert ([one.caller for one in looked(most=1).callers], looked(most=1).callers_total) == (["key_2"], 2)


def test_why_requests_fail_now() -> None:
    found = looked()
    assert [(one.error, one.per_s) for one in found.errors] == [("queue_timeout", 5.0), ("bad_gateway", 2.0)]
    assert ([one.error for one in looked(most=1).errors], looked(most=1).errors_total) == (["queue_timeout"], 2)


def test_gpus_that_were_lost_before_anybody_asked_have_no_uuid_and_are_told_all_the_same() -> None:
    page = Page('gpu_up{gpu="0"} 0\ngpu_up{gpu="1",uuid="GPU-1"} 1\ngpu_up{gpu="3"} 0\n', 0.0)
    assert [(one.gpu, one.up) for one in reading(None, page, 0.0, 20).gpus] == [("0", False), ("3", False), ("1", True)]


@pytest.mark.parametrize(
    ("said", "driver"),
    [
        ("", None),
        ('gpu_exporter_up 1\ngpu_exporter_info{state="ok"} 1\n', "ok"),
        ('gpu_exporter_up 0\ngpu_exporter_info{state="ok"} 1\n', "does not answer"),
        ('gpu_exporter_up 0\ngpu_exporter_info{state="library_not_found"} 1\n', "library_not_found"),
    ],
)
def test_how_the_driver_is(said: str, driver: str | None) -> None:
    assert reading(None, Page(said, 0.0), 0.0, 20).gpu_driver == driver


def test_of_many_the_first_are_told_and_how_many_there_are() -> None:
    found = looked(most=1)
    assert ([one.name for one in found.engines], found.engines_total) == (["b"], 4)
    assert ([one.model for one in found.models], found.models_total) == (["llama"], 2)
    assert ([one.uuid for one in found.gpus], found.gpus_total) == (["GPU-2"], 2), "what is lost is seen"


def test_the_first_look_knows_no_rates_and_an_idle_gateway_has_none() -> None:
    first = reading(None, Page(text(0), 1.0), 0.0, 20)
    assert (first.gateway.requests_per_s, first.models, first.gateway.active) == (None, [], 43)
    idle = "gateway_active_requests 0\n"
    assert reading(Page(idle, 0.0), Page(idle, 1.0), 0.0, 20).gateway.requests_per_s == 0


def test_the_gravest_state_is_told() -> None:
    page = Page('gateway_engine_inflight{engine="a"} 0\ngateway_engine_healthy{engine="a"} 0\n', 0.0)
    assert reading(None, page, 0.0, 20, [EngineTold("a", leaving=True)]).engines[0].state == "not well"
    assert reading(None, page, 0.0, 20, [EngineTold("a", away=True)]).engines[0].state == "away"


def test_events_that_are_not_well_formed_are_passed_over() -> None:
    told = b'id: 1\nevent: x\ndata: {"number":1,"at":2.5,"what":"engine_added","engine":"a","detail":""}\n\n: ping\ndata: {\n'
    deep = b'data: {"at":1,"what":"w","engine":"e","x":' + b"[" * 100_000 + b"\n"
    assert [one.what for one in events_told(deep + told)] == ["engine_added"]
