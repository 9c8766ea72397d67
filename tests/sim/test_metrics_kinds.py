"""The same state under the names of each engine, as that engine's own page would have them."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastgw.sim import SimConfig, Simulator
from tests.sim.client import chat, connect, request, send, until

NAMES = {
    "vllm": ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"),
    "sglang": ("sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang:token_usage"),
    "tgi": ("tgi_batch_current_size", "tgi_queue_size", None),
    "llamacpp": ("llamacpp:requests_processing", "llamacpp:requests_deferred", None),
}


def samples(page: str) -> dict[str, tuple[dict[str, str], float]]:
    """Read by Prometheus's own reader: name -> (labels, value)."""
    return {
        row.name: (dict(row.labels), row.value) for family in text_string_to_metric_families(page) for row in family.samples
    }


@pytest.mark.parametrize("kind", NAMES)
def test_load_is_shown_under_the_engines_own_names(run, kind):
    async def main():
        config = SimConfig(metrics_kind=kind, slots=2, itl_ms=1000.0, kv_tokens=100, models=('a "b"', "c"))
        async with Simulator(config) as sim:
            writers = []
            for _ in range(5):
                _, writer = await connect(sim.url)
                writer.write(chat(max_tokens=50))
                writers.append(writer)
            await until(lambda: sim.state.waiting == 3)
            page = (await send(sim.url, request("GET", "/metrics"))).body.decode()
            for writer in writers:
                writer.close()
            await until(lambda: sim.state.connections_open == 0)
            await asyncio.sleep(0)
            return page

    page = run(main)
    rows = samples(page)
    running, waiting, used = NAMES[kind]
    labels = {"model_name": 'a "b"'} if kind in ("vllm", "sglang") else {}
    assert rows[running] == (labels, 2.0)
    assert rows[waiting] == (labels, 3.0)
    if used:
        assert rows[used][0] == labels
        assert 0.0 < rows[used][1] <= 1.0
    assert rows["sim:requests_received_total"][1] == 6.0
    strangers = {name for other in NAMES if other != kind for name in NAMES[other] if name}
    assert strangers.isdisjoint(rows)


def test_an_engine_may_have_no_such_page(run):
    async def main():
        async with Simulator(SimConfig(metrics_kind="none")) as sim:
            return [(await send(sim.url, request("GET", path))).status for path in ("/metrics", "/health", "/v1/models")]

    assert run(main) == [404, 200, 200]


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="metrics_kind: vllm, sglang, tgi, llamacpp or none"):
        SimConfig(metrics_kind="triton")
