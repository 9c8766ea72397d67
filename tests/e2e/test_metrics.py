"""The metrics of a gateway that runs, at the port for clients: to whom that is opened, and without the control listener."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from fastgw.config import load
from fastgw.config.paying import PriceConfig
from fastgw.sim import SimConfig, Simulator
from tests.support.client import request
from tests.support.gateway import running
from tests.support.requests import chat


async def test_S2_07_S2_11_metrics_at_the_port_for_clients() -> None:
    async with Simulator(SimConfig(models=("sim",))) as sim, running(
        [sim.url], api_keys=("sk-of-a-caller",), metrics_public=True, metrics_genai=True, metrics_by="key",
        prices=[PriceConfig(model="sim", input="1", output="1")], key_budget="10",
    ) as gw, await gw.client() as client:
        await gw.until("the engine is known", lambda: gw.gateway.core.table.models)

        async def said(data: bytes, **how: Any) -> Any:
            await client.send(data)
            return await client.read_response(**how)

        for stream in (False, True):
            assert (await said(chat("sim", stream=stream, key="sk-of-a-caller"))).status == 200
        await gw.until("what was spent is known", lambda: all(one.known for one in gw.gateway.core.accounts.purses()))
        plain = await said(request("GET", "/metrics"))
        assert (plain.status, plain.header("content-type")) == (200, "text/plain; version=0.0.4; charset=utf-8")
        found = {one.name: one for one in text_string_to_metric_families(plain.body.decode())}
        requests = {tuple(sorted(one.labels.items())): one.value for one in found["gateway_requests"].samples}
        where = {"endpoint": "/v1/chat/completions", "method": "POST", "model": "sim", "status_code": "200"}
        assert requests[tuple(sorted(where.items()))] == 2
        for name, count in (
            ("gateway_request_duration_seconds", 2), ("gateway_time_to_first_token_seconds", 1),
            ("gateway_time_per_output_token_seconds", 1), ("gateway_overhead_seconds", 2),
            ("gen_ai_server_request_duration_seconds", 2),
        ):  # fmt: skip
            assert [one.value for one in found[name].samples if one.name == f"{name}_count"] == [count], name
        (reused,) = found["gateway_upstream_reused"].samples
        assert reused.value == 2, "over connections that were there"
        (caller,) = found["gateway_caller_requests"].samples
        assert caller.value == 2
        names = ("cost", "budget_limit", "budget_remaining")
        money = {name: found[f"gateway_caller_{name}"].samples[0].value for name in names}
        assert money["budget_limit"] == 10.0 == pytest.approx(money["budget_remaining"] + money["cost"])
        assert 0.0 < money["cost"] < 1.0
        assert "sk-" not in plain.body.decode()

        headers = [
            ("Accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"), ("Accept-Encoding", "gzip"),
        ]
        packed = await said(request("GET", "/metrics", headers=headers))
        assert (packed.header("content-encoding"), packed.header("vary")) == ("gzip", "Accept, Accept-Encoding")
        names = {one.name for one in openmetrics_families(gzip.decompress(packed.body).decode())}
        assert {"gateway_requests", "gateway_loop_lag_seconds", "process_resident_memory_bytes"} <= names
        assert (await said(request("HEAD", "/metrics"), head_only=True)).status == 200
        assert (await said(request("POST", "/metrics", body=b"{}"))).status == 405


@pytest.mark.parametrize(("said", "shown"), [({}, False), ({"FASTGW_COMPAT": "llm-stack"}, True)])
async def test_S2_07_it_is_open_under_the_profile_of_who_had_it_so(said: dict[str, str], shown: bool) -> None:
    config = load({}, said, "/nowhere")
    async with running(metrics_public=config.metrics_public) as gw, await gw.client() as client:
        await client.send(request("GET", "/metrics"))
        assert (await client.read_response()).status == (200 if shown else 404)
