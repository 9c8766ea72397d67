"""The engines under the names that other routers' scripts use: what is added, listed and removed so, and what is refused."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from fastgw import EngineConfig
from tests.control.test_admin_engines import SECRET, Operator, operator
from tests.control.test_server import ADMIN_KEY
from tests.support.client import RawClient, RawResponse, request

URL = "http://10.0.0.7:30000"


async def call(op: Operator, method: str, path: str, document: Any = None, key: str | None = ADMIN_KEY) -> RawResponse:
    async with RawClient.connect(op.control.url) as client:
        body = json.dumps(document).encode() if document is not None else None
        await client.send(request(method, path, body=body, key=key))
        return await client.read_response()


async def test_as_sglangs_router_is_asked() -> None:
    async with operator() as op:
        added = await call(op, "POST", f"/add_worker?url={quote(URL, safe='')}")
        assert (added.status, added.body) == (200, f"Successfully added worker: {URL}".encode())
        assert (await call(op, "GET", "/list_workers")).json() == {"urls": ["http://127.0.0.1:1", URL]}
        assert (await call(op, "POST", f"/add_worker?url={URL}")).status == 409
        removed = await call(op, "POST", f"/remove_worker?url={URL}/")
        assert (removed.status, removed.body) == (200, f"Successfully removed worker: {URL}/".encode())
        assert (await call(op, "GET", "/list_workers")).json() == {"urls": ["http://127.0.0.1:1"]}
        assert (await call(op, "POST", f"/remove_worker?url={URL}")).status == 404
        assert [(line[2]["action"], line[2].get("engine")) for line in op.log.lines][:2] == [
            ("add_worker", "10.0.0.7:30000"), ("list_worker_urls", None),
        ]  # fmt: skip


async def test_as_smg_is_asked() -> None:
    async with operator() as op:
        spec = {
            "url": URL, "api_key": SECRET, "models": [{"id": "m"}], "runtime_type": "sglang", "priority": 75,
            "labels": {"a": "b"}, "worker_type": "regular",
        }  # fmt: skip
        added = await call(op, "POST", "/workers", spec)
        id = added.json()["worker_id"]
        assert (added.status, added.header("location")) == (202, f"/workers/{quote(id, safe='')}")
        assert added.json() == {
            "status": "accepted", "worker_id": id, "url": URL, "location": added.header("location"),
            "message": "Worker addition queued for background processing",
        }  # fmt: skip
        page = (await call(op, "GET", "/workers")).json()
        assert (page["total"], page["stats"]) == (2, {"prefill_count": 0, "decode_count": 0, "regular_count": 2})
        (shown,) = [one for one in page["workers"] if one["url"] == URL]
        assert (shown["id"], shown["model_id"], shown["is_healthy"], shown["runtime_type"]) == (id, "m", False, "sglang")
        assert SECRET not in str(page)
        assert op.fleet.config_of(id).api_key == SECRET
        for said in (id, URL):
            assert (await call(op, "GET", f"/workers/{quote(said, safe='')}")).json() == shown
        gone = await call(op, "DELETE", f"/workers/{quote(id, safe='')}")
        assert (gone.status, gone.json()["status"], gone.json()["worker_id"]) == (202, "accepted", id)
        assert (await call(op, "GET", f"/workers/{quote(id, safe='')}")).status == 404


@pytest.mark.parametrize("said", [
    URL, f"{URL}/", f"{URL}/v1/", "HTTP://10.0.0.7:30000", "http://GPU.lan", "http://gpu.lan:80/", "http://[::0:1]:9", "unix:///run/e",
])  # fmt: skip
async def test_a_url_is_the_same_in_every_spelling_and_all_ranks_of_its_engine_are_one_worker(said: str) -> None:
    async with operator() as op:
        for url in (URL, "http://gpu.lan", "http://[::1]:9", "unix:/run/e"):
            for rank in range(3):
                op.fleet.add(EngineConfig(url=url, name=f"{url}@{rank}", kind="sglang", rank=rank))
        listed = (await call(op, "GET", "/list_workers")).json()["urls"]
        assert len(listed) == len(set(listed)) == 5
        assert (await call(op, "GET", f"/workers/{quote(said, safe='')}")).json()["url"] in listed
        assert (await call(op, "POST", f"/remove_worker?url={quote(said, safe='')}")).status == 200
        assert len((await call(op, "GET", "/list_workers")).json()["urls"]) == 4
        assert len(op.fleet) == 10
        assert (await call(op, "DELETE", f"/workers/{quote(said, safe='')}")).status == 404
        rank = next(one.engine.name for one in op.fleet.pools if one.engine.name != "first")
        assert (await call(op, "DELETE", f"/workers/{quote(rank, safe='')}")).status == 202
        assert len(op.fleet) == 9, "by its own name a rank goes alone"


async def test_a_url_that_is_left_ends_nobody_who_has_its_engines_name_by_now() -> None:
    async with operator() as op:
        op.fleet.add(EngineConfig(url=URL, name="a"))
        op.fleet.find("a").engine.inflight = 1
        op.fleet.remove("a")
        op.fleet.add(EngineConfig(url="http://10.0.0.8:30000", name="a"))
        assert (await call(op, "POST", f"/remove_worker?url={URL}")).status == 200
        assert (await call(op, "DELETE", f"/workers/{quote(URL, safe='')}")).status == 202
        assert not op.fleet.find("a").engine.draining
        assert op.fleet.config_of("a").url == "http://10.0.0.8:30000"


@pytest.mark.parametrize(
    ("method", "path", "document", "says"),
    [
        ("POST", "/add_worker", None, "url: must be there"),
        ("POST", "/add_worker?url=grpc://x:1", None, "the URL must be http://host:port"),
        ("POST", "/add_worker?url=http://x&role=prefill", None, "no parameter 'role'"),
        ("POST", "/workers", {"model_id": "m"}, "url"),
        ("POST", "/workers", {"url": URL, "worker_type": "prefill"}, "worker_type: must be regular"),
        ("POST", "/workers", {"url": URL, "models": [{"name": "m"}]}, "models: must be a list of names"),
        ("POST", "/workers", {"url": 7}, "url"),
    ],
)
async def test_what_is_no_worker_is_refused(method: str, path: str, document: Any, says: str) -> None:
    async with operator() as op:
        answer = await call(op, method, path, document)
        assert answer.status == 400
        assert says in answer.error["message"]
        assert len(op.fleet) == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/workers"), ("POST", "/workers"), ("GET", "/list_workers"), ("POST", "/add_worker?url=http://x"),
        ("DELETE", "/workers/first"),
    ],
)
async def test_nobody_gets_in_without_a_key(method: str, path: str) -> None:
    async with operator() as op:
        assert (await call(op, method, path, key=None)).status == 401
        assert len(op.fleet) == 1
