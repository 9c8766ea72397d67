"""Every endpoint through the gateway: what the engine gets, what the client gets, byte by byte.

What an endpoint *means* is the engine's business, so most tests compare: the same request to the engine directly and
through the gateway has the same answer, and the body that the engine read is the one that was sent.
"""

from __future__ import annotations

import json
from time import monotonic

import pytest

from fastgw import EngineConfig
from fastgw.sim import SimConfig, Simulator
from tests.e2e.asked import ask, audio, before, post
from tests.e2e.front import front
from tests.support.client import RawResponse, chat, request
from tests.support.gateway import running

JSON_TYPE = ("Content-Type", "application/json")

GENERATIONS = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Tell me."}], "max_tokens": 9},
    "/v1/completions": {"prompt": "Once", "max_tokens": 9},
    "/v1/responses": {"input": "Once", "max_output_tokens": 9},
    "/v1/messages": {"messages": [{"role": "user", "content": "Tell me."}], "max_tokens": 9},
}
PLAIN = {
    "/v1/embeddings": {"input": ["water", "fire"], "dimensions": 8},
    "/v1/rerank": {"query": "red", "documents": ["a red car", "the sea", "rust"], "top_n": 2},
    "/v1/score": {"text_1": "a cat", "text_2": ["a dog", "a stone"]},
    "/tokenize": {"prompt": "some words to count"},
    "/detokenize": {"tokens": [int.from_bytes(b"\x01word", "big"), int.from_bytes(b"\x01s", "big")]},
    "/v1/images/generations": {"prompt": "a pixel"},
}  # fmt: skip


class TestJsonEndpoints:
    """A JSON request is routed by its `model`, and neither it nor its answer is changed."""

    @pytest.mark.parametrize("path", [*GENERATIONS, *PLAIN])
    async def test_the_answer_is_the_engines(self, path: str) -> None:
        body = json.dumps({"model": "sim", **(GENERATIONS | PLAIN)[path], "an_extra": {"é": [1.50, None]}}).encode()
        async with before() as (gw, sim):
            direct = await ask(sim.url, post(path, body))
            through = await ask(gw.url, post(path, body))
            assert (through.status, through.body) == (direct.status, direct.body)
            assert through.status == 200, through.body
            assert through.header("content-type") == direct.header("content-type")
            first, second = sim.requests.to(path)
            assert first.body == second.body == body
        assert [record["endpoint"] for record in gw.records] == [path]
        assert gw.records[0]["model"] == "sim"

    @pytest.mark.parametrize("path", list(GENERATIONS))
    async def test_the_stream_is_the_engines(self, path: str) -> None:
        body = json.dumps({"model": "sim", **GENERATIONS[path], "stream": True}).encode()
        async with before() as (gw, sim):
            direct = await ask(sim.url, post(path, body))
            through = await ask(gw.url, post(path, body))
        assert through.body == direct.body
        assert through.how_ended == "terminal-chunk"
        assert len(through.events()) > 8
        assert through.header("x-accel-buffering") == "no"

    @pytest.mark.parametrize("path", [
        "/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/v1/rerank", "/v2/rerank", "/rerank",
        "/v1/score", "/score", "/tokenize", "/detokenize", "/v1/tokenize", "/v1/detokenize", "/v1/audio/speech",
        "/v1/images/generations", "/v1/chat/completions", "/v1/completions",
    ])  # fmt: skip
    async def test_the_engine_gets_the_same_bytes_at_the_same_path(self, path: str) -> None:
        body = b'{ "model":"a/b" ,\t"x":[1e3,"\\u00e9\xc3\xa9"], "model_":"c"}\n'
        async with front() as place, await place.client() as client:
            await client.send(post(path + "?beta=1&a=%20", body, headers=[("anthropic-version", "2023-06-01")]))
            assert (await client.read_response()).status == 200
            (seen,) = place.work
            assert (seen.method, seen.target, seen.body) == (b"POST", path.encode() + b"?beta=1&a=%20", body)
            assert seen.header(b"anthropic-version") == b"2023-06-01"

    @pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/rerank", "/score"])
    async def test_where_engines_need_no_model_none_is_asked_for(self, path: str) -> None:
        async with front() as place, await place.client() as client:
            await client.send(post(path, b'{"prompt":"x"}'))
            assert (await client.read_response()).status == 200
            assert place.work[0].body == b'{"prompt":"x"}'

    async def test_errors_of_messages_have_the_shape_its_sdk_reads(self) -> None:
        async with front(api_keys=["sk-a"]) as place, await place.client() as client:
            await client.send(post("/v1/messages", b'{"model":"m"}'))
            refused = await client.read_response()
        assert refused.status == 401
        assert refused.json()["type"] == "error"
        assert refused.json()["error"]["type"] == "authentication_error"

    async def test_speech_is_binary_and_comes_as_it_is_made(self) -> None:
        body = json.dumps({"model": "sim", "voice": "x", "input": "Fifty words are a long speech. " * 10}).encode()
        async with before({"itl_ms": 2.0}) as (gw, sim):
            direct = await ask(sim.url, post("/v1/audio/speech", body))
            async with await gw.client() as client:
                await client.send(post("/v1/audio/speech", body))
                begin = monotonic()
                answer = await client.read_until(await client.read_head(), direct.body[:1024])
                first = monotonic() - begin
                await client.read_body(answer)
                whole = monotonic() - begin
        assert answer.body == direct.body
        assert len(answer.body) > 50 * 1024
        assert answer.header("content-type") == direct.header("content-type") == "audio/mpeg"
        assert first < whole / 2, "the first bytes waited for the last"


class TestPassthrough:
    """`passthrough_paths` adds paths; what is not in the table is a 404 of the gateway's."""

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def test_any_method_and_any_body(self, method: str) -> None:
        body = None if method in ("GET", "DELETE") else audio(3000)
        async with front(passthrough_paths=["/v1/files/*"]) as place, await place.client() as client:
            await client.send(
                request(method, "/v1/files/abc/content?x=%2F", headers=[("Content-Type", "application/x-y")], body=body)
            )
            assert (await client.read_response()).status == 200
            (seen,) = place.work
            assert (seen.method.decode(), seen.target, seen.body) == (method, b"/v1/files/abc/content?x=%2F", body or b"")

    @pytest.mark.parametrize("target", [
        "/v1/files", "/v1/files/", "/v1/filesystem", "/v1/files/../models", "/v1/files/%2e%2e/x", "/v1/files/a%2Fb",
        "/V1/files/a", "/v1/batches", "/files/a",
    ])  # fmt: skip
    async def test_what_the_pattern_does_not_name(self, target: str) -> None:
        async with front(passthrough_paths=["/v1/files/*"]) as place, await place.client() as client:
            await client.send(request("GET", target))
            refused = await client.read_response()
            assert (refused.status, refused.error["code"]) == (404, "unknown_url")
            assert not place.touched

    @pytest.mark.parametrize("target", [
        "/v1/chat/%63ompletions", "/v1/chat/%63%6Fmpletions", "/v1/chat/completions/", "/v1/chat//completions",
        "/v1/audio/transcription%73", "/v1/audio/speec%68/", "/v1/messages/%63ount_tokens", "/v1/chat/./completions",
        "/v1/chat/completions/%2e", "/v1/chat/completions;a=b", "/v1/audio/;x/speech",
    ])  # fmt: skip
    async def test_no_other_spelling_of_an_endpoint_passes_it_by(self, target: str) -> None:
        below = ["/v1/chat/*", "/v1/audio/*", "/v1/messages/*"]
        async with front(passthrough_paths=below) as place, await place.client() as client:
            await client.send(request("POST", target, headers=[("Content-Type", "application/json")], body=b"{}"))
            refused = await client.read_response()
            assert (refused.status, refused.error["code"]) == (404, "unknown_url")
            assert not place.touched
            for other in ("/v1/chat/%66iles", "/v1/audio/files//a/", "/v1/chat/completions/a%20b"):
                await client.send(request("GET", other))
                assert (await client.read_response()).status == 200

    async def test_a_json_body_that_names_a_model_is_routed_by_it(self) -> None:
        async with Simulator(SimConfig(models=["one"])) as one, Simulator(SimConfig(models=["two"])) as two:
            engines = [EngineConfig(url=one.url, models=["one"]), EngineConfig(url=two.url, models=["two"])]
            async with running(engines, passthrough_paths=["/v1/moderations"]) as gw:
                for _ in range(3):
                    answer = await ask(gw.url, post("/v1/moderations", b'{"model":"two","input":"x"}'))
                    assert answer.json() == {"detail": "Not Found"}, "the engine's own 404"
            assert (len(one.requests.to("/v1/moderations")), len(two.requests.to("/v1/moderations"))) == (0, 3)

    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize("size", [100, 3_000_000])
    async def test_so_is_a_form_and_no_model_goes_to_an_engine_that_has_it_not(self, first: bool, size: int) -> None:
        named = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ntwo\r\n'
        file = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(size) + b"\r\n"
        body = (named + file if first else file + named) + b"--b--\r\n"
        async with Simulator(SimConfig(models=["one"])) as one, Simulator(SimConfig(models=["two"])) as two:
            engines = [EngineConfig(url=one.url, models=["one"]), EngineConfig(url=two.url, models=["two"])]
            async with running(engines, passthrough_paths=["/v1/up"]) as gw:
                for _ in range(3):
                    answer = await ask(gw.url, post("/v1/up", body, "multipart/form-data; boundary=b"))
                    if first or size < 1000:
                        assert answer.json() == {"detail": "Not Found"}, "the engine's own 404"
                    else:
                        assert answer.status == 400 or answer.json() == {"detail": "Not Found"}
                        if answer.status == 400:
                            assert "must come before the file" in answer.error["message"]
            assert one.requests.to("/v1/up") == [] or not first
            assert all(b'name="model"' not in seen.body for seen in one.requests.to("/v1/up"))

    async def test_a_form_without_a_model_goes_on_as_it_comes(self) -> None:
        body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(3_000_000) + b"\r\n--b--\r\n"
        async with front(passthrough_paths=["/v1/files"], memory_budget_bytes=1 << 20, max_body_bytes=1 << 19) as place:
            answer = await ask(place.gw.url, post("/v1/files", body, "multipart/form-data; boundary=b"))
            assert answer.status == 200
            (seen,) = place.work
            assert len(seen.body) >= 1 << 20

    async def test_a_json_body_is_read_whatever_its_length(self) -> None:
        body = b'{"model":"two","input":"' + b"x" * 30_000 + b'"}'
        async with front(passthrough_paths=["/v1/up"], max_body_bytes=20_000) as place:
            answer = await ask(place.gw.url, post("/v1/up", body))
            assert (answer.status, answer.error["code"]) == (413, "body_too_large")
            assert not place.touched

    async def test_a_key_is_needed_there_too(self) -> None:
        async with front(passthrough_paths=["/v1/files"], api_keys=["sk-a"]) as place, await place.client() as client:
            await client.send(request("GET", "/v1/files"))
            assert (await client.read_response()).status == 401
            await client.send(request("GET", "/v1/files", key="sk-a"))
            assert (await client.read_response()).status == 200
            assert [seen.header(b"authorization") for seen in place.work] == [None]


class TestModels:
    """`GET /v1/models` is one list over all engines."""

    async def test_the_list_is_the_union(self) -> None:
        async with (
            Simulator(SimConfig(models=["a", "org/b"])) as one, Simulator(SimConfig(models=["a", "c"])) as two,
            Simulator(SimConfig(models=["hidden"])) as three,
        ):  # fmt: skip
            engines = [
                EngineConfig(url=one.url),
                EngineConfig(url=two.url, kind="vllm"),
                EngineConfig(url=three.url, models=["d"]),
            ]
            async with running(engines) as gw:
                await gw.until("models learned", lambda: len(gw.gateway.core.table.models) == 4)
                listed = (await ask(gw.url, request("GET", "/v1/models"))).json()
                assert listed["object"] == "list"
                assert sorted(row["id"] for row in listed["data"]) == ["a", "c", "d", "org/b"]
                for row in listed["data"]:
                    assert row["object"] == "model"
                    assert isinstance(row["created"], int)
                    assert isinstance(row["owned_by"], str)
                    one_row = await ask(gw.url, request("GET", f"/v1/models/{row['id']}"))
                    assert (one_row.status, one_row.json()) == (200, row)
                encoded = await ask(gw.url, request("GET", "/v1/models/org%2Fb"))  # as the SDKs write it
                assert (encoded.status, encoded.json()["id"]) == (200, "org/b")
                missing = await ask(gw.url, request("GET", "/v1/models/e"))
                assert (missing.status, missing.error["code"]) == (404, "model_not_found")

    async def test_right_after_the_start_it_waits_for_the_engine(self) -> None:
        async with before({"models": ["slow-to-say"]}) as (gw, _):
            listed = await ask(gw.url, request("GET", "/v1/models"))
            assert [row["id"] for row in listed.json()["data"]] == ["slow-to-say"]

    async def test_the_served_name_is_listed_first_and_works(self) -> None:
        async with before({"any_model": True}, served_model_name="house-model") as (gw, _sim):
            listed = await ask(gw.url, request("GET", "/v1/models"))
            assert listed.json()["data"][0]["id"] == "house-model"
            assert (await ask(gw.url, chat("house-model"))).status == 200

    async def test_an_ollama_engine_tells_its_tags(self) -> None:
        async with before({"models": ["qwen:7b"]}, engine={"kind": "ollama"}) as (gw, sim):
            await gw.until("models learned", lambda: "qwen:7b" in gw.gateway.core.table.models)
            assert {seen.path for seen in sim.requests} <= {"/api/tags", "/api/ps", "/api/show"}
            assert (await ask(gw.url, request("GET", "/v1/models/qwen:7b"))).status == 200

    async def test_it_follows_the_engine(self) -> None:
        async with before({"models": ["old"]}, health_interval_s=0.05, model_refresh_s=0.05) as (gw, sim):
            await gw.until("the first list", lambda: "old" in gw.gateway.core.table.models)
            port = sim.port
            await sim.stop()
            async with Simulator(SimConfig(models=["new"], port=port)):
                await gw.until("the new list", lambda: list(gw.gateway.core.table.models) == ["new"])

    async def test_it_needs_a_key_when_there_are_keys(self) -> None:
        async with before(api_keys=["sk-a"]) as (gw, _):
            assert (await ask(gw.url, request("GET", "/v1/models"))).status == 401
            assert (await ask(gw.url, request("GET", "/v1/models", key="sk-a"))).status == 200
            assert (await ask(gw.url, request("GET", "/v1/models/sim"))).status == 401


class TestOtherMethods:
    """HEAD is GET without the body, OPTIONS says what a path takes; anything else is a 405 that says so too."""

    @pytest.mark.parametrize(
        "path", ["/liveness", "/readiness", "/health", "/healthz", "/ready", "/v1/models", "/v1/models/sim"]
    )
    async def test_head_is_get_without_the_body(self, path: str) -> None:
        async with before() as (gw, _), await gw.client() as client:
            await gw.until("a healthy engine", lambda: "sim" in gw.gateway.core.table.models)
            await client.send(request("HEAD", path) + request("GET", path))
            head = await client.read_response(head_only=True)
            get = await client.read_response()
        assert head.status == get.status == 200
        assert head.header("content-length") == str(len(get.body))
        assert head.header("content-type") == get.header("content-type")

    @pytest.mark.parametrize(("method", "path", "allow"), [
        ("HEAD", "/v1/chat/completions", {"GET", "POST", "OPTIONS"}), ("GET", "/v1/completions", {"POST", "OPTIONS"}),
        ("DELETE", "/v1/models", {"GET", "HEAD", "OPTIONS"}), ("POST", "/healthz", {"GET", "HEAD", "OPTIONS"}),
        ("PUT", "/v1/embeddings", {"POST", "OPTIONS"}), ("PATCH", "/v1/audio/speech", {"POST", "OPTIONS"}),
    ])  # fmt: skip
    async def test_a_method_that_a_path_does_not_take(self, method: str, path: str, allow: set[str]) -> None:
        async with front() as place, await place.client() as client:
            await client.send(request(method, path, body=b"" if method in ("POST", "PUT", "PATCH") else None))
            refused = await client.read_response(head_only=method == "HEAD")
            assert refused.status == 405
            assert set((refused.header("allow") or "").replace(" ", "").split(",")) == allow
            await place.probe(client)
            assert not place.touched

    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "*", "/healthz"])
    async def test_options_needs_no_key_and_reaches_no_engine(self, path: str) -> None:
        async with front(api_keys=["sk-a"]) as place, await place.client() as client:
            await client.send(request("OPTIONS", path))
            answer = await client.read_response()
            assert (answer.status, answer.body) == (204, b"")
            assert "OPTIONS" in (answer.header("allow") or "")
            assert answer.header("access-control-allow-origin") is None
            await place.probe(client)
            assert not place.touched

    async def test_options_of_an_unknown_path(self) -> None:
        async with front() as place, await place.client() as client:
            await client.send(request("OPTIONS", "/v1/nothing"))
            assert (await client.read_response()).status == 404


class TestCors:
    """Off by default; with `cors_origins`, only those origins hear yes."""

    ORIGIN = ("Origin", "https://app.example")
    PREFLIGHT = (("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization, x-trace"))

    def names(self, answer: RawResponse) -> list[str]:
        return [name.lower() for name, _ in answer.headers if name.lower().startswith("access-control-")]

    async def test_off(self) -> None:
        async with before() as (gw, _), await gw.client() as client:
            for data in (
                chat("sim", headers=[self.ORIGIN]),
                request("OPTIONS", "/v1/models", headers=[self.ORIGIN, *self.PREFLIGHT]),
            ):
                await client.send(data)
                assert self.names(await client.read_response()) == []

    @pytest.mark.parametrize("stream", [False, True])
    async def test_a_known_origin(self, stream: bool) -> None:
        async with (
            before(cors_origins=["https://app.example", "http://localhost:3000"]) as (gw, _),
            await gw.client() as client,
        ):
            await client.send(chat("sim", stream=stream, headers=[self.ORIGIN]))
            answer = await client.read_response()
            assert answer.status == 200
            assert answer.header("access-control-allow-origin") == "https://app.example"
            assert answer.header("vary") == "Origin"
            assert "x-request-id" in (answer.header("access-control-expose-headers") or "")
            await client.send(request("OPTIONS", "/v1/chat/completions", headers=[self.ORIGIN, *self.PREFLIGHT]))
            answer = await client.read_response()
            assert answer.status == 204
            assert answer.header("access-control-allow-origin") == "https://app.example"
            assert answer.header("access-control-allow-methods") == "GET, OPTIONS, POST", "what the path takes"
            assert (answer.header("access-control-allow-headers") or "") == "authorization, x-trace"
            assert int(answer.header("access-control-max-age") or 0) > 0
            assert answer.header("access-control-allow-credentials") is None

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://app.example.evil", "http://app.example"])
    async def test_another_origin(self, origin: str) -> None:
        async with before(cors_origins=["https://app.example"]) as (gw, _), await gw.client() as client:
            for data in (
                chat("sim", headers=[("Origin", origin)]), request("GET", "/v1/models", headers=[("Origin", origin)]),
                request("OPTIONS", "/v1/chat/completions", headers=[("Origin", origin), *self.PREFLIGHT]),
            ):  # fmt: skip
                await client.send(data)
                answer = await client.read_response()
                assert answer.status in (200, 204)
                assert self.names(answer) == []
                assert answer.header("vary") == "Origin", "a cache must not take it for a listed one's"
            await client.send(request("GET", "/v1/models"))
            assert (await client.read_response()).header("vary") == "Origin"

    async def test_any_origin_and_errors_too(self) -> None:
        async with before(cors_origins=["*"], api_keys=["sk-a"]) as (gw, _), await gw.client() as client:
            for data, status in (
                (chat("sim", headers=[self.ORIGIN]), 401), (chat("sim", headers=[self.ORIGIN], key="sk-a"), 200),
                (chat("x", headers=[self.ORIGIN], key="sk-a"), 404), (request("GET", "/healthz", headers=[self.ORIGIN]), 200),
            ):  # fmt: skip
                await client.send(data)
                answer = await client.read_response()
                assert answer.status == status
                assert answer.header("access-control-allow-origin") == "*", status
