"""An engine's load as its own page tells it, whatever else the page holds."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.config.names import ENGINE_KINDS, EngineKind
from fastgw.protocol import gauges
from fastgw.protocol.gauges import MAX_COUNT, Gauges
from fastgw.upstream.kinds.registry import GAUGES, kind_of

VLLM = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.1-8B"} 5.0
vllm:num_requests_running{engine="1",model_name="meta-llama/Llama-3.1-8B"} 3.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="meta-llama/Llama-3.1-8B"} 2.0
vllm:num_requests_waiting{engine="1",model_name="meta-llama/Llama-3.1-8B"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 7.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="meta-llama/Llama-3.1-8B"} 0.42
vllm:kv_cache_usage_perc{engine="1",model_name="meta-llama/Llama-3.1-8B"} 0.91
vllm:generation_tokens_total{engine="0"} 7.5e+06
"""

SGLANG = b"""\
# HELP sglang:num_running_reqs The number of running requests.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{engine_type="unified",model_name="q",pp_rank="0",tp_rank="0"} 12.0
sglang:num_running_reqs_offline_batch{model_name="q"} 99.0
sglang:num_queue_reqs{engine_type="unified",model_name="q",priority="",tp_rank="0"} 4.0
sglang:num_queue_reqs{engine_type="unified",model_name="q",priority="0",tp_rank="0"} 3.0
sglang:num_queue_reqs{engine_type="unified",model_name="q",priority="1",tp_rank="0"} 1.0
sglang:token_usage{model_name="q",tp_rank="0"} 0.28
"""

TGI = b"""\
# TYPE tgi_queue_size gauge
tgi_queue_size 7

# TYPE tgi_batch_current_size gauge
tgi_batch_current_size 4

# TYPE tgi_batch_next_size histogram
tgi_batch_next_size_bucket{le="1"} 3
"""

LLAMA = b"""\
# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 2
# HELP llamacpp:requests_deferred Number of requests deferred.
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 46
"""

PAGES: dict[EngineKind, tuple[bytes, Gauges]] = {
    "vllm": (VLLM, Gauges(8, 2, 0.91)),
    "sglang": (SGLANG, Gauges(12, 4, 0.28)),
    "tgi": (TGI, Gauges(4, 7, -1.0)),
    "llamacpp": (LLAMA, Gauges(2, 46, -1.0)),
}


def read(kind: EngineKind, body: bytes) -> Gauges | None:
    """As the scheduler reads the page of an engine of that kind."""
    return gauges.read(kind_of(kind).gauges, body, GAUGES)


@pytest.mark.parametrize("kind", PAGES)
def test_each_engines_own_page(kind: EngineKind) -> None:
    page, told = PAGES[kind]
    assert read(kind, page) == told
    assert read("auto", page) == read("openai", page) == told
    assert read(kind, page.replace(b"\n", b"\r\n")) == told
    assert all(read(other, page) is None for other in PAGES if other != kind)


def test_older_names_of_the_cache() -> None:
    page = VLLM.replace(b"kv_cache_usage_perc", b"gpu_cache_usage_perc")
    assert read("vllm", page) == Gauges(8, 2, 0.91)
    assert read("llamacpp", LLAMA + b"llamacpp:kv_cache_usage_ratio 0.5\n") == Gauges(2, 46, 0.5)


@pytest.mark.parametrize(
    ("row", "running"),
    [
        (b"vllm:num_requests_running 5", 5),
        (b"vllm:num_requests_running\t5.0  ", 5),
        (b"vllm:num_requests_running 5 1395066363000", 5),
        (b'vllm:num_requests_running 5.0 # {trace_id="abc"} 9.0 1.5', 5),
        (b"vllm:num_requests_running{} 5", 5),
        (b'vllm:num_requests_running{model_name="a } b \\" 9"} 5', 5),
        (b'vllm:num_requests_running{model_name="} 9"}5', 5),
        (b"vllm:num_requests_running 1e3", 1000),
        (b"vllm:num_requests_running 1e300", MAX_COUNT),
    ],
)
def test_forms_that_a_row_may_take(row: bytes, running: int) -> None:
    assert read("vllm", row) == Gauges(running, 0, -1.0)
    assert read("vllm", b"x 1\n" + row + b"\nvllm:num_requests_waiting 3") == Gauges(running, 3, -1.0)


@pytest.mark.parametrize(
    "row",
    [
        b"",
        b"vllm:num_requests_running",
        b"vllm:num_requests_running ",
        b"vllm:num_requests_running NaN",
        b"vllm:num_requests_running +Inf",
        b"vllm:num_requests_running -3",
        b"vllm:num_requests_running five",
        b"vllm:num_requests_running \xff\xfe",
        b"vllm:num_requests_running{ 5",
        b'vllm:num_requests_running{a="} 5',
        b"vllm:num_requests_running{",
        b"vllm:num_requests_running_total 5",
        b"my_vllm:num_requests_running 5",
        b"# vllm:num_requests_running 5",
        b" vllm:num_requests_running 5",
        b'{"detail":"Not Found"}',
        b"<html>vllm:num_requests_running 5</html>",
    ],
)
def test_what_says_nothing(row: bytes) -> None:
    assert read("vllm", row) is None
    assert read("auto", b"x 1\n" + row + b"\n") is None


def test_a_row_that_says_nothing_does_not_spoil_the_others() -> None:
    page = b'vllm:num_requests_running{engine="0"} NaN\nvllm:num_requests_running{engine="1"} 3\n'
    assert read("vllm", page) == Gauges(3, 0, -1.0)


def test_a_gauge_that_was_never_used_is_nought() -> None:
    assert read("tgi", b"tgi_queue_size 2\n") == Gauges(0, 2, -1.0)
    assert read("tgi", b"tgi_batch_current_size 2\n") == Gauges(2, 0, -1.0)


def test_a_share_is_at_most_all_of_it() -> None:
    assert read("sglang", b"sglang:num_running_reqs 1\nsglang:token_usage 1.7\n") == Gauges(1, 0, 1.0)


@given(st.binary(max_size=200), st.sampled_from(ENGINE_KINDS))
def test_no_page_raises(junk: bytes, kind: EngineKind) -> None:
    for page in (junk, b"vllm:num_requests_running" + junk, b"tgi_queue_size{" + junk + b"} 4", VLLM + junk):
        told = read(kind, page)
        assert told is None or (told.running >= 0 and told.waiting >= 0 and -1.0 <= told.kv_usage <= 1.0)


@pytest.mark.parametrize(
    "page",
    [
        b"vllm:num_requests_running" * 10_000,
        b"vllm:num_requests_running 1\n" * 9_000,
        b'vllm:num_requests_running{a="' + b'\\"' * 120_000,
        b"vllm:num_requests_running{" + b'a="b",' * 40_000,
        b'vllm:num_requests_running{a="' * 8_000,
    ],
)
def test_hostile_pages_take_no_longer_than_honest_ones(page: bytes) -> None:
    begun = time.perf_counter()
    read("auto", page)
    assert time.perf_counter() - begun < 0.5
