"""Keys that a client puts where they do not belong are in no record and in no log, nor in what an engine is told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from fastgw import Config, EngineConfig, Gateway
from fastgw.sim import SimConfig, Simulator
from tests.support.client import RawClient, chat, chat_body, request
from tests.support.written import read_all

CLIENT = "fgw_" + "Zx3-_" * 8 + "abc"
PLAIN = "correct-horse!battery/staple"
ENGINE = "engine-key-of-seventeen"
ADMIN = "admin-key-of-the-operator"
WRONG = "sk-" + "wrong-but-somebodys-key-0001"
KEYS = (CLIENT, PLAIN, ENGINE, ADMIN, WRONG)


def misplaced(key: str) -> list[bytes]:
    """A key in each place from which something is logged."""
    encoded = "".join(f"%{ord(char):02x}" for char in key)
    shown = key.replace("/", "%2F")
    as_key = {"key": CLIENT}
    return [
        request("GET", f"/v1/models/{shown}", **as_key),
        request("GET", f"/{key}"),
        request("GET", f"/v1/{encoded}"),
        request("POST", f"/v1/{key}/chat/completions", body=b"{}"),
        request("GET", f"/v1/usage?api_key={shown}", **as_key),
        request("GET", f"/nowhere/Bearer%20{shown}"),
        request("GET", "/v1/usage", headers=[("X-Request-Id", key)], **as_key),
        request("GET", "/v1/usage", headers=[("X-Request-Id", f"req-{shown}")], **as_key),
        chat(key, **as_key),
        chat(f"model {key}", True, **as_key),
        chat(body=chat_body(f"org/{key}"), key=key),
        chat("m", headers=[("X-Request-Id", key)], **as_key),
        request("GET", f"/v1/realtime?model={shown}&api_key={shown}", **as_key),
        request("DELETE", f"/{key}"),
        f"{key.replace('/', '-').replace('!', '-')[:20]} / HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        request("GET", f"/{'x' * 490}/{key}"),
    ]


@pytest.mark.parametrize("json_lines", [True, False])
@pytest.mark.parametrize("key", KEYS)
async def test_in_no_line(key: str, json_lines: bool) -> None:
    records: list[Any] = []
    config = Config(
        engines=[], port=0, api_keys=[CLIENT, PLAIN], vllm_api_key=ENGINE, admin_key=ADMIN, control_listen="127.0.0.1:0",
        rate_limit_per_second=0, drain_timeout_s=0.2, log_level="debug",
    )  # fmt: skip
    async with Simulator(SimConfig(any_model=True)) as sim:
        with read_all(json_lines) as (log, pieces):
            log.start(asyncio.get_running_loop())
            for access in (log, records):
                engines = [EngineConfig(url=sim.url, api_key=ENGINE, models=["*"])]
                settings = {name: getattr(config, name) for name in ("api_key_digests", "vllm_api_key", "admin_key")}
                full = Config(engines=engines, port=0, rate_limit_per_second=0, drain_timeout_s=0.2, **settings)
                async with Gateway(full, log=log, access=access) as gateway:
                    for data in misplaced(key):
                        async with RawClient.connect(gateway.url) as client:
                            await client.send(data)
                            await client.read_head(5.0)
        written = b"".join(pieces)
        told = written + json.dumps([str(record) for record in records]).encode()
        lines = written.splitlines()
        assert len(lines) >= len(misplaced(key))
        encoded = "".join(f"%{ord(char):02x}" for char in key)
        for form in (key, key.replace("/", "%2F"), encoded, key[4:], key[:14]):
            assert form.encode() not in told, "\n".join(
                one[:300] for one in [*map(str, lines), *map(str, records)] if form in one
            )
        assert b"[key]" in told
        for seen in sim.requests:
            ids = seen.header("x-request-id") or ""
            assert key not in ids, "an engine would log it"
            if key != ENGINE:
                assert not any(key.encode() in value for name, value in seen.headers if name != b"host"), seen.headers


@pytest.mark.parametrize("settings", [{}, {"api_keys": [CLIENT]}])
@pytest.mark.parametrize("turns", ["ab", "ba", "aba"])
@pytest.mark.parametrize("one", [True, False])
async def test_a_line_is_not_remembered_for_another_credential(one: bool, turns: str, settings: dict[str, Any]) -> None:
    """A text that is a key in one request is none in another, that has another credential or none: neither hides or shows it
    for the other."""
    key = "goodkey-abcdef"
    config = Config(engines=[], port=0, drain_timeout_s=0.2, **settings)
    model = chat(f"x{key}y", key=CLIENT if settings else None)
    places = {"path": (request("POST", f"/v1/x{key}y"), request("POST", f"/v1/x{key}y", key=key))}
    if not settings:
        places["model"] = (model, chat(f"x{key}y", key=key))
    with read_all(True) as (log, pieces):
        log.start(asyncio.get_running_loop())
        async with Gateway(config, log=log, access=log) as gateway:
            for without, its_own in places.values():
                requests = [without if turn == "a" else its_own for turn in turns]
                for some in [requests] if one else [[each] for each in requests]:
                    async with RawClient.connect(gateway.url) as client:
                        for data in some:
                            await client.ask(data)
    told = [line for line in map(json.loads, b"".join(pieces).splitlines()) if line["message"] == "request"]
    assert len(told) == len(places) * len(turns)
    for place, lines in zip(places, (told[: len(turns)], told[len(turns) :]), strict=False):
        for turn, line in zip(turns, lines, strict=True):
            assert (key in line[place], "[key]" in line[place]) == ((True, False) if turn == "a" else (False, True)), line


async def test_what_is_no_key_is_logged_as_it_came() -> None:
    records: list[Any] = []
    async with Simulator(SimConfig(any_model=True)) as sim:
        config = Config(engines=[EngineConfig(url=sim.url, models=["*"])], port=0, api_keys=[CLIENT], drain_timeout_s=0.2)
        async with Gateway(config, access=records) as gateway, RawClient.connect(gateway.url) as client:
            for data in (
                request("GET", "/v1/models/meta-llama%2FLlama-3.1-8B-Instruct", key=CLIENT),
                chat("org/some.model-v2", key=CLIENT, headers=[("X-Request-Id", "0f8fad5b-d9cb-469f-a165-70867728950e")]),
            ):
                await client.ask(data)
    assert records[0].path == b"/v1/models/meta-llama%2FLlama-3.1-8B-Instruct"
    assert records[1].model == "org/some.model-v2"
    assert records[1].request_id == b"0f8fad5b-d9cb-469f-a165-70867728950e"
