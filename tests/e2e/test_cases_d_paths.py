"""What is not on the data port, and other spellings of what is, over real sockets: D6, D7."""

from __future__ import annotations

import pytest

from fastgw import Config
from fastgw.config import ConfigErrors
from fastgw.sim import SimConfig, Simulator
from tests.e2e.identity import CHAT, ENGINE_KEY, KEY, ask, assert_error, assert_unauthorized, guarded, posts
from tests.support.client import chat, chat_body, request
from tests.support.gateway import running
from tests.support.probed import PROBED

ADMIN_PATHS = [
    "/admin",
    "/admin/",
    "/admin/keys",
    "/admin/keys/1",
    "/v1/admin/keys",
    "/admin/models/load",
    "/runners",
    "/runners/1",
    "/ws/runners",
    "/metrics",
    "/metrics/",
    "/dashboard",
    "/dashboard/",
    "/dashboard/index.html",
    "/static/app.js",
    "/events",
    "/debug/state",
    "/debug/requests",
    "/debug/pprof/",
    "/config",
    "/v1/config",
    "/stats",
    "/status",
    "/reload",
    "/shutdown",
    "/workers",
    "/add_worker",
    "/get_server_info",
    "/docs",
    "/openapi.json",
    "/version",
    "/.env",
    "/",
    "/v1",
    "/v1/",
]
RUNNER = "sk-runner-of-these-tests"
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]


class TestD6:
    """What belongs to operators is not on the data port: 404 whatever the key, the method or the engine behind."""

    @pytest.mark.parametrize("path", ADMIN_PATHS)
    async def test_D6_not_on_the_data_port(self, path: str) -> None:
        token = "" if path == "/ws/runners" else RUNNER  # (that is there for runners, once they may dial in)
        async with (
            Simulator(SimConfig(debug=True)) as sim,
            running([sim.url], api_keys=(KEY,), admin_key="sk-admin-of-these-tests", runner_auth_token=token) as gw,
            await gw.client() as client,
        ):
            await gw.until("probed", lambda: len(sim.requests) > 0)
            for key in (None, KEY, "sk-admin-of-these-tests", RUNNER, ENGINE_KEY):
                for method in METHODS:
                    await client.send(
                        request(method, path, key=key, body=b"{}" if method in ("POST", "PUT", "PATCH") else None)
                    )
                    answer = await client.read_response(head_only=method == "HEAD")
                    assert answer.status == 404
                    if method != "HEAD":
                        assert_error(answer, 404, "invalid_request_error")
            seen = {one.path for one in sim.requests}
            assert seen <= PROBED, "the engine's own pages are not reached either"

    async def test_D6_upgrade_is_no_way_in(self) -> None:
        upgrade = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Key", "x"),
            ("Sec-WebSocket-Version", "13"),
        ]
        async with guarded() as (_, _, client):
            for path in ("/ws/runners", "/admin", "/metrics"):
                assert (await ask(client, request("GET", path, headers=upgrade, key=KEY))).status == 404

    async def test_D6_only_what_is_configured_is_passed_through(self) -> None:
        async with guarded(passthrough_paths=("/v1/extra", "/v1/more/*")) as (_, sim, client):
            for path in ("/v1/extra/x", "/v1/extra/", "/v1/more", "/v1/more/", "/v1/moreover", "/v1/other"):
                assert (await ask(client, request("GET", path, key=KEY))).status == 404
            assert_unauthorized(await ask(client, request("GET", "/v1/extra")))
            before = len(sim.requests)
            await ask(client, request("GET", "/v1/extra", key=KEY))
            assert [one.path for one in sim.requests if one.path.startswith("/v1/extra")] == ["/v1/extra"], before

    def test_D6_no_key_is_not_open_to_the_network(self) -> None:
        assert Config().host == "127.0.0.1"
        for host in ("0.0.0.0", "::", "192.0.2.1"):
            with pytest.raises(ConfigErrors, match="allow_anonymous"):
                Config(host=host)
            with pytest.raises(ConfigErrors, match="allow_anonymous"):
                Config(host=host, admin_key="sk-admin-of-these-tests", vllm_api_key=ENGINE_KEY)
            assert Config(host=host, api_keys=(KEY,)).host == host


OTHER_SPELLINGS = [
    "/v1/../admin",
    "/v1/./chat/completions",
    "/./v1/chat/completions",
    "/v1/chat/../chat/completions",
    "/v1/chat/completions/..",
    "/v1/chat/completions/.",
    "/v1/chat/completions/",
    "//v1/chat/completions",
    "/v1//chat/completions",
    "/v1/chat//completions",
    "/v1/chat/completions//",
    "///v1/chat/completions",
    "/V1/chat/completions",
    "/v1/Chat/completions",
    "/v1/chat/COMPLETIONS",
    "/%76%31/chat/completions",
    "/v1/chat/completion%73",
    "/v1%2fchat/completions",
    "/v1/chat%2Fcompletions",
    "/v1/%2e%2e/v1/chat/completions",
    "/v1/%2E%2E/admin",
    "/v1/%252e%252e/admin",
    "/v1/.%2e/admin",
    "/v1/%c0%ae%c0%ae/admin",
    "/v1/%00",
    "/v1/chat/completions%00",
    "/v1/chat/completions%20",
    "/v1/chat/completions%0d%0aX-Injected:%20yes",
    "/v1/chat/completions;x",
    "/v1/chat/completions;x=1",
    "/v1;/chat/completions",
    "/v1/..;/admin",
    "/v1/chat/completions,",
    "/v1/chat/completions.json",
    "/v1/chat/completions&x",
    "/v1/chat/completions%3fx=1",
    "/%2fv1/chat/completions",
    "/v1/chat/completions%",
    "/v1/chat/completions%zz",
    "/health/",
    "/HEALTH",
    "/health%2f..%2fadmin",
    "/v1/models/../admin",
    "/v1/models/%2e%2e/%2e%2e/admin",
    "/v1/models/..%2f..%2fadmin",
]


class TestD7:
    """Another spelling of a path is another path: 404, nothing is normalised, nothing reaches another route, ∅."""

    @pytest.mark.parametrize("path", OTHER_SPELLINGS)
    async def test_D7_not_found(self, path: str) -> None:
        async with guarded() as (_, sim, client):
            for target in (path, path + "?x=1", "http://gateway" + path):
                for method, body in (("POST", chat_body("m")), ("GET", None)):
                    answer = await ask(
                        client, request(method, target, key=KEY, headers=[("Content-Type", "application/json")], body=body)
                    )
                    if path.startswith("/v1/models/") and method == "POST":
                        assert answer.status in (404, 405)
                    else:
                        assert_error(answer, 404, "invalid_request_error")
                    assert b"njected" not in answer.raw_head
            assert posts(sim) == []
            assert {one.target for one in sim.requests} <= PROBED
            assert (await ask(client, chat("m", key=KEY))).status == 200

    @pytest.mark.parametrize(
        "path",
        [
            "/v1/chat\\completions",
            "/v1\\..\\admin",
            "/v1/chat/completions#x",
            "/v1/chat/completions\x80",
            "v1/chat/completions",
        ],
    )
    async def test_D7_no_target_at_all(self, path: str) -> None:
        async with guarded() as (_, sim, client):
            assert_error(await ask(client, chat("m", path=path, key=KEY)), 400, "invalid_request_error")
            assert posts(sim) == []

    @pytest.mark.parametrize(
        "tail", ["../admin", "x/../../admin", "%2e%2e/admin", "%2E%2e/x", ".%2e/admin", "x%2f..%2fy", "..", "..;/x", "%2f%2f"]
    )
    async def test_D7_nothing_leads_out_of_a_prefix(self, tail: str) -> None:
        async with guarded(passthrough_paths=("/v1/more/*",)) as (_, sim, client):
            for method in ("GET", "POST"):
                answer = await ask(
                    client, request(method, "/v1/more/" + tail, key=KEY, body=b"{}" if method == "POST" else None)
                )
                assert_error(answer, 404, "invalid_request_error")
            assert not [one for one in sim.requests if "more" in one.target or "admin" in one.target]

    async def test_D7_the_query_is_forwarded_as_it_is(self) -> None:
        async with guarded() as (_, sim, client):
            for query in ("?x=1", "?api-version=2024-02-01&y=%2e%2e%2f", "??", "?a=/../b;c", "?"):
                assert (await ask(client, chat("m", path=CHAT + query, key=KEY))).status == 200
                assert posts(sim)[-1].target == CHAT + query
