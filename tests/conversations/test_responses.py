"""Responses that engines keep: who goes on from one, reads it or ends it is answered by the engine that made it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from fastgw import RouteConfig
from fastgw.limits.breaker import PROBE
from fastgw.net.clock import monotonic
from fastgw.upstream.absent import AWAY_S, ENGINE, RUNNER, Who
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


BELOW = (("GET", ""), ("GET", "/input_items"), ("POST", "/cancel"), ("DELETE", ""))


@pytest.mark.parametrize("names", ["a", "abc"])
def test_anothers_response_is_none_and_no_engine_is_asked_for_it(names: str) -> None:
    keys = (*KEYS, tenant_key("z", "other"))
    engines = {name: {"models": ("m", "other")} for name in names}
    with deployed(engines, keys=keys, plays={name: Keeper(name, "one read", 0) for name in names}) as row:
        told, _ = made(row)
        before = row.asked
        other = json.dumps({"model": "other"}).encode()
        for _ in range(3):
            assert row.ask(post(told, "y")).status == row.ask(post(told, "z", model="other")).status == 404
            for tenant in "yz":
                for method, below in BELOW:
                    for body in (b"", other):
                        heads = JSON if body else []
                        asked = request(method, f"{PATH}/{told}{below}", headers=heads, body=body, key=key_of(tenant))
                        assert row.ask(asked).status == 404
        assert row.asked == before
        assert row.ask(post(told)).status == 200


def escaped(told: str) -> bytes:
    return b"".join([b"\\u%04x" % ord(char) for char in told])


@pytest.mark.parametrize("passed", [[], [f"{PATH}/*"], [f"{PATH}/compact"]], ids=["none", "all below", "one"])
def test_however_its_id_is_spelled_it_is_its_owners_alone(passed: list[str]) -> None:
    """JSON has many spellings of a string, and some engines decode paths, merge slashes, or are told JSON by another name."""
    with deployed(ENGINES, keys=KEYS, plays=keepers(), passthrough_paths=passed) as row:
        told, name = made(row)
        row.engines[name].play.kept.append("compact")  # (whatever is passed on is answered)
        before = row.asked
        body = b'{"model":"m","input":"hi", "%b" : "%b"}'
        bodies = [
            body % (member, value)
            for member in (b"previous_response_id", b"previous\\u005fresponse_id")
            for value in (told.encode(), escaped(told), told.encode().replace(b"_", b"\\u005f"))
        ]
        bodies.append(b'{"previous_response_id":"resp_other",' + bodies[0][1:])
        bodies.append(bodies[0][:-1] + b',"previous_response_id":"resp_other"}')
        for path in (PATH, f"{PATH}/compact"):
            for kind in ("application/json", "text/plain", ""):
                heads = [("content-type", kind)] if kind else []
                for one in bodies:
                    answer = row.ask(request("POST", path, headers=heads, body=one, key=key_of("y")))
                    assert 400 <= answer.status < 500, (path, kind, one)
        for below in (told.replace("_", "%5F"), f"./{told}", f"/{told}", f"{told}/", f"{told};a=1", f"{told}/./cancel"):
            for method in ("GET", "POST", "DELETE"):
                assert row.ask(request(method, f"{PATH}/{below}", key=key_of("y"))).status in (404, 405), below
        assert row.asked == before
        for one in bodies[:-2]:
            assert row.goes_to(request("POST", PATH, headers=JSON, body=one, key=key_of("x"))) == name
        if passed:
            assert row.goes_to(request("POST", f"{PATH}/compact", headers=JSON, body=bodies[1], key=key_of("x"))) == name


NO_IDS = '["%s"]', "1", "true", '" %s"', '"%s\\u0000"', '"%s\\u00e9"', f'"{"a" * 257}"', f'"{"a" * 9000}"'


@pytest.mark.parametrize("value", NO_IDS)
def test_what_is_no_id_of_a_response_is_400(value: str) -> None:
    with deployed(ENGINES, keys=KEYS, plays=keepers()) as row:
        told, _ = made(row)
        before = row.asked
        body = b'{"model":"m","previous_response_id":%b,"input":"hi"}' % value.replace("%s", told).encode()
        answer = row.ask(request("POST", PATH, headers=JSON, body=body, key=key_of("x")))
        assert (answer.status, json.loads(answer.body)["error"]["param"]) == (400, "previous_response_id")
        assert row.asked == before
        for none in ("", None):
            assert row.ask(post(previous_response_id=none)).status == 200


def test_an_id_that_somebody_has_chosen_is_whose_it_was_first() -> None:
    with deployed({"a": {"models": ("m",)}}, keys=KEYS, plays={"a": lambda asked: asked.says(ok(said("resp_mine")))}) as row:
        assert row.ask(post()).status == row.ask(post(tenant="y")).status == 200
        assert row.ask(request("GET", f"{PATH}/resp_mine", key=key_of("x"))).status == 200
        assert row.ask(request("GET", f"{PATH}/resp_mine", key=key_of("y"))).status == 404


def test_a_key_for_some_models_has_what_it_has_made() -> None:
    with deployed(ENGINES, keys=(tenant_key("x", "m"),), plays=keepers()) as row:
        told, _ = made(row)
        for method, below in BELOW:
            assert row.ask(request(method, f"{PATH}/{told}{below}", key=key_of("x"))).status == 200
        other = json.dumps({"model": "other"}).encode()
        asked = request("POST", f"{PATH}/{told}/cancel", headers=JSON, body=other, key=key_of("x"))
        assert row.ask(asked).status == 403, "but by no model that it may not use"


SHARES = RouteConfig(model="m", versions={"1": 90, "2": 10})
UNAVAILABLE = b"HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\n\r\n"
FALLS = RouteConfig(model="m", fallback=["n"], fallback_on=["failure"])


@pytest.mark.parametrize(("engines", "routes"), [
    ({"a": {"models": ("m",), "version": "1"}, "b": {"models": ("m",), "version": "2"}}, (SHARES,)),
    ({"own": {"models": ("t",), "tenant": "x"}, "a": {"models": ("m",)}, "b": {"models": ("m",)}}, ()),
], ids=["shares", "engines of his own"])  # fmt: skip
def test_its_engine_is_asked_whatever_share_or_tenants_it_is_of(engines: Any, routes: tuple[RouteConfig, ...]) -> None:
    with deployed(engines, *routes, keys=KEYS, plays={name: Keeper(name, "one read", 0) for name in engines}) as row:
        for _ in range(20):
            told, name = made(row)
            assert made(row, previous_response_id=told)[1] == name
            assert row.goes_to(request("GET", f"{PATH}/{told}", key=key_of("x"))) == name


@pytest.mark.parametrize("who", ["the engine", "the key"])
def test_an_engine_that_is_another_tenants_now_is_asked_no_more(who: str) -> None:
    """What is stored there stays there: its tenant's engine is nobody else's, whoever has used it before."""
    engines = {"own": {"models": ("m",), "tenant": "x"}, "a": {"models": ("m",)}}
    with deployed(engines, FALLS, keys=KEYS, plays={name: Keeper(name, "one read", 0) for name in engines}) as row:
        told, name = made(row)
        assert name == "own"
        for _ in range(2):
            assert row.goes_to(post(told)) == name
        if who == "the engine":
            row.engines[name].engine.tenant = "y"
        else:
            row.talk.core.accounts.apply((replace(KEYS[0], tenant=""), KEYS[1]), 0, 0.0)
            row.talk.core.version += 1
        row.learn()
        before = row.asked
        assert row.ask(post(told)).status == row.ask(request("GET", f"{PATH}/{told}", key=key_of("x"))).status == 404
        assert (row.asked["own"], row.asked["a"]) == (before["own"], before["a"] + 2)


@pytest.mark.parametrize("state", ["well", "spared by another", "ill", "drained"])
def test_what_a_fallback_has_made_it_is_asked_for(state: str) -> None:
    engines = {"a": {"models": ("m",)}, "b": {"models": ("n",)}}
    plays = {name: Keeper(name, "one read", 0) for name in engines}
    with deployed(engines, FALLS, keys=KEYS, plays=plays, cb_failure_threshold=5) as row:
        well, row.engines["a"].play = row.engines["a"].play, lambda asked: asked.says(UNAVAILABLE)
        assert row.ask(post()).header("x-fallback-model") == "n"
        row.engines["a"].play = well
        told, engine, before = row.engines["b"].play.kept[-1], row.engines["b"].engine, row.asked
        engine.healthy, engine.draining = state != "ill", state == "drained"
        for _ in range(5 if state == "spared by another" else 0):
            engine.breaker.failed(monotonic(), 0.0, False, ("key-of-y", ""))
        row.talk.core.room()
        answer = row.ask(post(told))
        if state == "drained":
            assert (answer.status, row.asked) == (503, before)
        else:
            assert (answer.status, answer.header("x-fallback-model"), row.sent("b")["model"]) == (200, "n", "n")
            assert row.asked["a"] == before["a"]


@pytest.mark.parametrize("held", ["rests", "ejected", "told", "ill", "its breaker is open", "its probe is out"])
def test_its_engine_is_asked_although_others_are_left_alone(held: str) -> None:
    with deployed(ENGINES, FALLS, keys=KEYS, plays=keepers(), cb_failure_threshold=1) as row:
        told, name = made(row)
        engine, now = row.engines[name].engine, monotonic()
        if held == "ill":
            engine.healthy = False
        elif held.startswith("its"):
            engine.breaker.failed(now, 0.0, False)
            if held == "its probe is out":
                engine.breaker.until = now
                assert engine.breaker.admit(now) == PROBE
        elif held == "ejected":
            engine.ejected_until, engine.held = now + 60.0, True
        else:
            for caller in ("key-of-x", "key-of-y")[: 2 if held == "rests" else 1]:
                engine.told_to_wait(caller, now, 60.0)
        for method, below in BELOW:
            assert row.goes_to(request(method, f"{PATH}/{told}{below}", key=key_of("x"))) == name
        assert row.goes_to(post(told)) == name


def test_what_it_says_is_said_and_nobody_else_is_asked() -> None:
    with deployed(ENGINES, FALLS, keys=KEYS, plays=keepers(), retry_statuses=("503",)) as row:
        told, name = made(row)
        row.engines[name].play = lambda asked: asked.says(UNAVAILABLE)
        before = row.asked
        assert row.ask(post(told)).status == 503
        assert sum(row.asked.values()) == sum(before.values()) + 1


def test_who_waits_for_many_of_them_has_no_more_turns_than_another() -> None:
    engines = {f"e{at}": {"models": ("m",), "max_concurrent": 1} for at in range(8)}
    order: list[str] = []

    class Noting(Keeper):
        def __call__(self, asked: Any) -> None:
            order.append(json.loads(asked.body).get("user", ""))
            super().__call__(asked)

    with deployed(engines, keys=KEYS, plays={name: Noting(name, "one read", 0) for name in engines}, queue_size=1000) as row:
        homes: dict[str, str] = {}
        while len(homes) < len(engines):
            told, name = made(row)
            homes[name] = told
        for name in engines:
            row.engines[name].engine.inflight = 1
        for _ in range(4):
            for told in homes.values():
                row.talk.client().says(post(tenant="y", user="y"))
                row.talk.client().says(post(told, user="x"))
        row.talk.passes(0.05)
        order.clear()
        for name in engines:
            row.engines[name].engine.inflight = 0
        row.talk.core.room()
        row.talk.passes(1.0)
        assert abs(order[:32].count("x") - order[:32].count("y")) <= 2


@pytest.mark.parametrize(("state", "code"), [
    ("drained", "engine_away"), ("ill and full", "engine_away"), ("refuses connections", "engine_away"),
    ("gone by itself", "engine_away"), ("its runner has gone", "runner_away"), ("its runner is drained", "runner_away"),
    ("was removed", ""), ("is not waited for any more", ""),
])  # fmt: skip
def test_who_cannot_have_it_now_comes_again_and_is_not_told_that_there_is_none(state: str, code: str) -> None:
    """Clients' libraries take 404 for an answer, and what it names for lost; after 503 they come again."""
    engines = {name: {"models": ("m",), "max_concurrent": 1} for name in NAMES}
    with deployed(engines, FALLS, keys=KEYS, plays=keepers()) as row:
        told, name = made(row)
        pool = row.engines[name]
        engine = pool.engine
        engine.draining, engine.fleeting = state.endswith("drained"), "runner" in state
        if state == "ill and full":
            engine.healthy, engine.inflight = False, 1
        elif state == "refuses connections":
            pool.close_idle()
            pool.dial = "refused"
        elif not engine.draining:
            if state != "was removed":
                row.talk.core.table.absent.open = True
                row.talk.core.table.absent.went(Who(RUNNER if "runner" in state else ENGINE, name), ["m"], monotonic())
            row.learn(name)
            if "any more" in state:
                row.talk.passes(AWAY_S)
        before = row.asked
        below_it = () if state == "ill and full" else BELOW  # (what takes no place is asked for)
        asks = [post(told), *[request(method, f"{PATH}/{told}{below}", key=key_of("x")) for method, below in below_it]]
        for answer in map(row.ask, asks):
            if not code:
                assert answer.status == 404
                continue
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, code)
            assert int(answer.header("retry-after") or 0) > 0
        assert (row.asked == before) == bool(code), "nobody else is asked, but for what nobody knows"
        engine.inflight = 0


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
        assert row.ask(request("POST", f"{PATH}/resp_a0", headers=JSON, body=b"{}", key=key_of("x"))).status == 405
        assert sum(row.asked.values()) == 0


@pytest.mark.parametrize("of", ["input_tokens", "compact"])
def test_what_is_asked_of_a_response_to_be_made_goes_where_it_would_be_made(of: str) -> None:
    with deployed(ENGINES, keys=KEYS, plays=keepers()) as row:
        told, name = made(row)
        row.engines[name].play.kept.append(of)  # (whatever is passed on is answered)
        body = json.dumps({"model": "m", "previous_response_id": told}).encode()
        asked = [request("POST", f"{PATH}/{of}", headers=JSON, body=body, key=key_of(tenant)) for tenant in "xy"]
        assert {row.goes_to(asked[0]) for _ in range(4)} == {name}
        before = row.asked
        assert row.ask(asked[1]).status == 404, "another key's"
        assert row.ask(request("GET", f"{PATH}/{of}", key=key_of("x"))).status == 405, "it is no response"
        assert row.asked == before


@pytest.mark.parametrize("comes", ["one read", "whole", "stream"])
@pytest.mark.parametrize("how", [{"conversation": "conv_1"}, {"conversation": {"id": "conv_1"}}], ids=["id", "object"])
def test_a_conversation_goes_on_where_it_was_answered_and_is_whose_it_was_first(how: dict[str, Any], comes: str) -> None:
    with deployed(ENGINES, keys=KEYS, plays=keepers(comes, 9)) as row:
        told, name = made(row, conversation="conv_1")
        assert told
        assert {row.goes_to(post(**how)) for _ in range(5)} == {name}
        assert {row.goes_to(post(conversation=None)) for _ in range(6)} == set(NAMES)
        before = row.asked
        assert row.ask(post(tenant="y", **how)).status == 404
        assert row.asked == before


@pytest.mark.parametrize("value", ["", {"id": 5}, {}, ["conv_1"], {"id": "a", "ID": "b"}, "a" * 257])
def test_what_is_no_conversation_is_400(value: Any) -> None:
    with deployed(ENGINES, keys=KEYS, plays=keepers()) as row:
        answer = row.ask(post(conversation=value))
        assert (answer.status, json.loads(answer.body)["error"]["param"]) == (400, "conversation")
