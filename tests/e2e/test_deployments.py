"""Deployments over real sockets: other shares while it runs, and a stream whose name is restored."""

from __future__ import annotations

from typing import Any

from fastgw import Config, EngineConfig, RouteConfig
from fastgw.sim import SimConfig, Simulator
from tests.support.client import chat
from tests.support.gateway import running

SETTINGS: dict[str, Any] = {"rate_limit_per_second": 0, "allowed_hosts": ["*"], "health_interval_s": 60.0}


def route(**versions: int) -> RouteConfig:
    return RouteConfig(model="sim", aliases=["gpt-4o"], restore_name=True, versions=versions)


async def test_shares_follow_the_settings_and_streams_say_the_client_s_name() -> None:
    async with Simulator(SimConfig(output_tokens=4)) as old, Simulator(SimConfig(output_tokens=4)) as new:
        engines = [
            EngineConfig(url=engine.url, name=name, version=name) for engine, name in ((old, "v1"), (new, "v2"))
        ]  # fmt: skip
        async with running(engines, routes=[route(v1=1)], **SETTINGS) as gw, await gw.client() as client:
            await gw.until("the engines have told their models", lambda: "gpt-4o" in gw.gateway.core.table.deployed.aliases)
            for versions, name in (({"v1": 1}, "v1"), ({"v2": 1}, "v2")):
                await gw.gateway.follow(Config(engines=engines, port=0, routes=[route(**versions)], **SETTINGS))
                answer = await client.ask(chat("gpt-4o", stream=True))
                assert answer.status == 200
                assert b'"model":"gpt-4o"' in answer.body.replace(b" ", b"")
                assert b'"sim"' not in answer.body
                assert gw.records[-1]["engine"] == name
