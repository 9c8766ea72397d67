"""Responses that engines keep: who goes on from one, reads it or ends it is answered by the engine that made it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastgw import RouteConfig
from tests.conversations.deployed_row import Deployed, deployed, key_of, tenant_key
from tests.support.requests import request
from tests.support.scripts import JSON_CHUNKED, LAST_CHUNK, SSE_HEAD, chunk, ok

JSON = [("content-type", "application/json")]
NAMES = ("a", "b", "c")
ENGINES: dict[str, dict[str, Any]] = {name: {"models": ("m",)} for name in NAMES}
KEYS = tenant_key("x"), tenant_key("y")
PATH = "/v1/responses"


class Keeper:
    """An engine that keeps what it makes, in its own memory; ``how`` its answers come, in pieces of ``size``."""

    def __init__(self, name: str, how: str, size: int) -> None:
        self.name, self.how, self.size = name, how, size
        self.kept: list[str] = []

    def __call__(self, asked: Any) -> None:
        method, target = asked.start.method, asked.start.target.decode()
        if method == b"POST" and target == PATH:
            before = json.loads(asked.body).get("previous_response_id")
            if before and before not in self.kept:
                asked.says(missing())
                return
            self.kept.append(f"resp_{self.name}{len(self.kept)}")
            asked.says(*self.answer(self.kept[-1]))
            return
        told = target.removeprefix(PATH + "/").partition("/")[0]
        asked.says(ok(said(told)) if told in self.kept else missing())

    def answer(self, told: str) -> list[bytes]:
        body = said(told)
        if self.how == "one read":
            return [ok(body)]
        if self.how == "stream":
            body = b'event: response.created\ndata: {"type":"response.created","response":%b}\n\n' % body
            body += b'event: response.completed\ndata: {"type":"response.completed","response":%b}\n\n' % said(told)
        pieces = [chunk(body[at : at + self.size]) for at in range(0, len(body), self.size)]
        return [SSE_HEAD if self.how == "stream" else JSON_CHUNKED, *pieces, LAST_CHUNK]


def said(told: str) -> bytes:
    return b'{"created_at":1, "id": "%b","object":"response","output":[{"id":"msg_1","type":"message"}]}' % told.encode()


def missing() -> bytes:
    body = b'{"error":{"message":"Response not found","code":404}}'
    return b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def keepers(how: str = "one read", size: int = 4096) -> dict[str, Any]:
    return {name: Keeper(name, how, size) for name in NAMES}


def post(previous: str = "", tenant: str = "x", **fields: Any) -> bytes:
    if previous:
        fields["previous_response_id"] = previous
    body = json.dumps({"model": "m", "input": "hi", **fields}).encode()
    return request("POST", PATH, headers=JSON, body=body, key=key_of(tenant))


def made(row: Deployed, tenant: str = "x", **fields: Any) -> tuple[str, str]:
    """(id, engine) of a new one."""
    before = row.asked
    answer = row.ask(post(tenant=tenant, **fields))
    assert answer.status == 200
    [name] = [name for name, count in row.asked.items() if count != before[name]]
    return row.engines[name].play.kept[-1], name


@pytest.mark.parametrize("policy", ["round_robin", "least_loaded", "consistent_hash"])
@pytest.mark.parametrize(("how", "size"), [("one read", 0), ("whole", 9), ("stream", 9), ("stream", 4096)])
def test_who_goes_on_from_a_response_reads_it_or_ends_it_is_answered_by_its_engine(how: str, size: int, policy: Any) -> None:
    settings: dict[str, Any] = {"policy": policy, "hash_sources": ["header:x-nobody"]}
    with deployed(ENGINES, keys=KEYS, plays=keepers(how, size), **settings) as row:
        for _ in range(4):
            told, engine = made(row, stream=how == "stream")
            for _ in range(3):
                told, again = made(row, previous_response_id=told)
                assert again == engine
            for method, below in (("GET", ""), ("GET", "/input_items"), ("POST", "/cancel"), ("DELETE", "")):
                answer = row.ask(request(method, f"{PATH}/{told}{below}", key=key_of("x")))
                assert (answer.status, json.loads(answer.body)["id"]) == (200, told)


def test_nobody_is_led_by_what_anothers_request_has_made() -> None:
    with deployed(ENGINES, keys=KEYS, plays=keepers(), policy="ordered") as row:
        row.engines["a"].engine.draining = True
        told, engine = made(row)
        row.engines["a"].engine.draining = False
        assert engine == "b"
        assert row.ask(post(told, "y")).status == 404, "it goes where any would"
        assert row.ask(request("GET", f"{PATH}/{told}", key=key_of("y"))).status == 404
        assert row.ask(post(told)).status == 200


@pytest.mark.parametrize("state", ["drained", "ill", "gone"])
def test_where_its_engine_is_not_there_another_says_that_it_has_none(state: str) -> None:
    with deployed(ENGINES, keys=KEYS, plays=keepers()) as row:
        told, name = made(row)
        engine = row.engines[name].engine
        engine.draining, engine.healthy = state == "drained", state != "ill"
        if state == "gone":
            row.learn(name)
        before = row.asked[name]
        assert row.ask(post(told)).status == row.ask(request("GET", f"{PATH}/{told}", key=key_of("x"))).status == 404
        assert row.asked[name] == before


@pytest.mark.parametrize("route", [(), (RouteConfig(model="m", max_concurrent=9),)], ids=["no route", "a route"])
def test_where_its_engine_is_full_it_waits_for_that_one(route: tuple[RouteConfig, ...]) -> None:
    engines = {name: {"models": ("m",), "max_concurrent": 1} for name in NAMES}
    with deployed(engines, *route, keys=KEYS, plays=keepers()) as row:
        told, name = made(row)
        engine = row.engines[name].engine
        engine.inflight = 1
        client = row.talk.client().says(post(told))
        other = row.talk.client().says(post())
        row.talk.passes(0.5)
        assert (row.talk.waiting, other.sink) == (1, None)
        engine.inflight = 0
        row.talk.core.room()
        row.talk.passes(0.1)
        assert (client.seen.status, row.asked[name]) == (200, 2)


def test_as_many_are_known_as_sessions_are_and_as_long() -> None:
    with deployed(ENGINES, keys=KEYS, plays=keepers(), session_table=16, session_ttl_s=60.0) as row:
        first, _ = made(row)
        many = [made(row) for _ in range(16)]
        [part] = row.talk.core.responses._seats.parts
        assert part.count == 16
        assert all(row.ask(post(told)).status == 200 for told, _ in many[-8:])
        row.talk.passes(61.0)
        goes = {row.ask(post(many[-1][0])).status for _ in range(3)}
        assert goes == {200, 404}, "in turn, as any"
        assert first


def test_who_asks_for_none_costs_nothing_and_a_stream_goes_the_short_way_from_its_id_on() -> None:
    with deployed(ENGINES, keys=KEYS, plays={name: lambda asked: None for name in NAMES}) as row:
        body = json.dumps({"model": "m", "messages": [], "stream": True}).encode()
        row.talk.client().says(request("POST", "/v1/chat/completions", headers=JSON, body=body, key=key_of("x")))
        assert row.talk.core.responses is None
        row.talk.client().says(post(stream=True))
        *_, asked = [asked for pool in row.engines.values() for asked in pool.asked if asked.start.target == PATH.encode()]
        asked.says(SSE_HEAD, chunk(b'data: {"type":"other"}\n\n'))
        relay = asked.carrier.relay
        assert relay.show is not None
        asked.says(chunk(b'data: {"type":"response.created","response":{"id":"resp_1"}}\n\n'))
        assert relay.show is None


@pytest.mark.parametrize("path", ["", "/", "a/b", "a/cancel/", "a//cancel", "%61", "../chat/completions", "a" * 257])
def test_what_is_no_path_of_a_response_is_none_here(path: str) -> None:
    with deployed(ENGINES, keys=KEYS, plays=keepers()) as row:
        assert row.ask(request("GET", f"{PATH}/{path}", key=key_of("x"))).status == 404
        assert row.ask(request("POST", f"{PATH}/compact", headers=JSON, body=b"{}", key=key_of("x"))).status == 405
        assert sum(row.asked.values()) == 0
