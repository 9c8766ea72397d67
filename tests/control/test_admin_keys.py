"""The admin API over real sockets, before a key store in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from fastgw.config.money import amount
from fastgw.control import admin_keys as module
from fastgw.control.admin_keys import (
    FIELDS,
    MAX_LISTED,
    AuditEntry,
    KeyNotFound,
    KeyProblems,
    record_view,
    usage_view,
)
from fastgw.control.server import MAX_BODY_BYTES, ControlServer
from fastgw.limits.key import KeyRecord, UsageRow
from fastgw.protocol.hosts import HostRule
from tests.control.test_server import ADMIN_KEY, Events, the_key, until
from tests.support.client import RawClient, RawResponse, request
from tests.support.pages import Written

NOW = 1_700_000_000.0  # 2023-11-14T22:13:20Z, day 19675


class MemoryKeys:
    """A backend that keeps keys in a dict and refuses what a store would."""

    def __init__(self) -> None:
        self.records: dict[str, KeyRecord] = {}
        self.entries: list[AuditEntry] = []
        self.rows: dict[str, UsageRow] = {}
        self.failing: BaseException | None = None
        self.made = 0

    def _text(self) -> tuple[str, bytes]:
        self.made += 1
        text = f"fgw_text{self.made}"
        return text, sha256(text.encode()).digest()

    def _note(self, actor: str, action: str, id: str, changes: Mapping[str, Any]) -> None:
        number = len(self.entries) + 1
        self.entries.insert(0, AuditEntry(number=number, at=NOW, actor=actor, action=action, key_id=id, changes=changes))

    def _checked(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(fields)
        problems = [f"{name}: must be from 0 to 1000000" for name, value in found.items() if value == -1]
        if found.get("priority") not in (None, "high", "normal", "low"):
            problems.append("priority: must be high, normal or low")
        if problems:
            raise KeyProblems(problems)
        for name in ("models", "networks", "certificates"):
            if name in found:
                found[name] = tuple(found[name])
        if found.get("budget") is not None:
            found["budget"] = amount(found["budget"])
        if "expires_at" in found:
            found["expires_at"] = float(found["expires_at"] or 0)
        return found

    async def _ready(self) -> None:
        await asyncio.sleep(0)
        if self.failing is not None:
            raise self.failing

    def _of(self, id: str) -> KeyRecord:
        record = self.records.get(id)
        if record is None or record.deleted:
            raise KeyNotFound(id)
        return record

    async def create(self, fields: Mapping[str, Any], actor: str) -> tuple[KeyRecord, str]:
        await self._ready()
        checked = self._checked(fields)
        text, digest = self._text()
        id = f"key_{self.made:016x}"
        record = KeyRecord(id=id, digest=digest, created_at=NOW, **checked)
        self.records[id] = record
        self._note(actor, "create", id, fields)
        return record, text

    async def page(
        self, *, limit: int, after: str, tenant: str | None, name: str | None
    ) -> tuple[Sequence[KeyRecord], bool]:
        await self._ready()
        found = [
            record
            for id, record in sorted(self.records.items())
            if id > after and not record.deleted and tenant in (None, record.tenant) and name in (None, record.name)
        ]
        return found[:limit], len(found) > limit

    async def show(self, id: str) -> KeyRecord:
        await self._ready()
        return self._of(id)

    async def _change(self, id: str, actor: str, action: str, **fields: Any) -> KeyRecord:
        await self._ready()
        self.records[id] = msgspec.structs.replace(self._of(id), **fields)
        self._note(actor, action, id, {})
        return self.records[id]

    async def update(self, id: str, fields: Mapping[str, Any], actor: str) -> KeyRecord:
        return await self._change(id, actor, "update", **self._checked(fields))

    async def rotate(self, id: str, grace_s: float, actor: str) -> tuple[KeyRecord, str]:
        text, digest = self._text()
        until_s = NOW + grace_s if grace_s else 0.0
        return await self._change(id, actor, "rotate", digest=digest, previous_until=until_s), text

    async def disable(self, id: str, actor: str) -> KeyRecord:
        return await self._change(id, actor, "disable", disabled=True)

    async def enable(self, id: str, actor: str) -> KeyRecord:
        return await self._change(id, actor, "enable", disabled=False)

    async def delete(self, id: str, actor: str) -> None:
        await self._change(id, actor, "delete", deleted=True)

    async def audit(self, limit: int, before: int | None) -> tuple[Sequence[AuditEntry], bool]:
        await self._ready()
        found = [entry for entry in self.entries if before is None or entry.number < before]
        return found[:limit], len(found) > limit

    async def usage(self, id: str) -> UsageRow | None:
        await self._ready()
        return self.rows.get(id)


class Operator:
    """One caller with the admin key, the store behind, and the log beside."""

    def __init__(self, control: ControlServer, keys: MemoryKeys, log: Events) -> None:
        self.control = control
        self.keys = keys
        self.log = log

    async def raw(self, data: bytes, *, head_only: bool = False) -> RawResponse:
        async with RawClient.connect(self.control.url) as client:
            await client.send(data)
            return await client.read_response(head_only=head_only)

    async def ask(self, method: str, path: str, document: Any = None, *, body: bytes | None = None) -> RawResponse:
        """``document`` as JSON, or ``body`` as it is."""
        if document is not None:
            body = json.dumps(document).encode()
        return await self.raw(request(method, f"/admin/{path}", body=body, key=ADMIN_KEY), head_only=method == "HEAD")

    async def made(self, **fields: Any) -> dict[str, Any]:
        response = await self.ask("POST", "keys", fields)
        assert response.status == 201, response.body
        found: dict[str, Any] = response.json()
        return found


@contextlib.asynccontextmanager
async def operator(max_body_bytes: int = MAX_BODY_BYTES) -> AsyncIterator[Operator]:
    keys, log = MemoryKeys(), Events()
    control = ControlServer(
        host="127.0.0.1",
        port=0,
        operators=[the_key(ADMIN_KEY)],
        log=log,
        metrics=Written(),
        health=dict,
        keys=keys,
        hosts=HostRule(["x"], ""),
        max_body_bytes=max_body_bytes,
    )
    await control.start()
    try:
        yield Operator(control, keys, log)
    finally:
        await control.stop()


EVERYTHING = {
    "name": "team 'A' \U0001f511",
    "tenant": "research",
    "expires_at": NOW + 86_400,
    "requests_per_minute": 60,
    "burst": 10,
    "tokens_per_minute": 0,
    "daily_tokens": 10**15,
    "concurrency": 4,
    "priority": "high",
    "on_exhausted": "cut",
    "budget": "12.5",
    "budget_period": "week",
    "models": ["llama", "qwen/3"],
    "networks": ["10.0.0.0/8", "2001:db8::/32"],
    "certificates": ["ab" * 32],
}


async def test_a_key_is_created_with_all_that_it_may_have_and_shown_once() -> None:
    async with operator() as op:
        response = await op.ask("POST", "keys", EVERYTHING)
        made = response.json()
        assert response.status == 201
        assert response.header("location") == f"/admin/keys/{made['id']}"
        assert response.header("cache-control") == "no-store"
        assert made.pop("key") == "fgw_text1"
        expected = EVERYTHING | {
            "id": "key_0000000000000001",
            "created_at": "2023-11-14T22:13:20Z",
            "expires_at": "2023-11-15T22:13:20Z",
            "disabled": False,
            "previous_until": None,
        }
        assert made == expected
        shown = (await op.ask("GET", f"keys/{made['id']}")).json()
        assert shown.pop("usage")["requests"] == 0
        assert shown == expected
        listed = (await op.ask("GET", "keys")).json()
        assert listed == {"object": "list", "data": [expected], "has_more": False, "last_id": made["id"]}
        digest = op.keys.records[made["id"]].digest
        for where in ("keys", f"keys/{made['id']}", "audit"):
            text = (await op.ask("GET", where)).body
            assert b"fgw_text" not in text
            assert b"digest" not in text
            assert digest.hex().encode() not in text


async def test_an_empty_object_makes_a_key_with_the_gateways_defaults() -> None:
    async with operator() as op:
        made = await op.made()
        assert made["requests_per_minute"] is made["priority"] is made["expires_at"] is None
        assert made["models"] == made["networks"] == made["certificates"] == []
        assert made["name"] == ""


async def test_updating_changes_what_is_given_and_null_goes_back_to_the_default() -> None:
    async with operator() as op:
        id = (await op.made(name="a", burst=5, tenant="t"))["id"]
        response = await op.ask("PATCH", f"keys/{id}", {"burst": None, "models": ["m"], "concurrency": 0})
        assert response.status == 200
        shown = response.json()
        assert shown["burst"] is None
        assert shown["models"] == ["m"]
        assert shown["concurrency"] == 0
        assert (shown["name"], shown["tenant"]) == ("a", "t")
        assert "key" not in shown
        assert (await op.ask("PATCH", f"keys/{id}", {})).status == 400


async def test_a_chunked_body_is_as_good_as_another() -> None:
    async with operator() as op:
        response = await op.raw(request("POST", "/admin/keys", body=b'{"name":"in pieces"}', key=ADMIN_KEY, chunked=[1, 3]))
        assert response.status == 201
        assert response.json()["name"] == "in pieces"
        head = f"POST /admin/keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
        assert (await op.raw(head.encode() + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n")).status == 400


async def test_rotation_gives_the_new_key_once_and_says_until_when_the_old_one_is_good() -> None:
    async with operator() as op:
        made = await op.made(name="a")
        response = await op.ask("POST", f"keys/{made['id']}/rotate", {"grace_s": 3600})
        assert response.status == 200
        assert response.json()["key"] == "fgw_text2"
        assert response.json()["previous_until"] == "2023-11-14T23:13:20Z"
        # Without a body: the old one ends at once.
        response = await op.ask("POST", f"keys/{made['id']}/rotate")
        assert response.json()["key"] == "fgw_text3"
        assert response.json()["previous_until"] is None
        for wrong in (-1, "1h", True, None, [1], 1e12, 30 * 86_400 + 1):
            response = await op.ask("POST", f"keys/{made['id']}/rotate", {"grace_s": wrong})
            assert response.status == 400, wrong
            assert response.error["message"] == "grace_s: must be a number of seconds from 0 to 2592000"
        assert (await op.ask("POST", f"keys/{made['id']}/rotate", {"grace": 1})).status == 400
        assert op.keys.made == 3


async def test_disabling_enabling_and_deleting() -> None:
    async with operator() as op:
        id = (await op.made(name="a"))["id"]
        assert (await op.ask("POST", f"keys/{id}/disable")).json()["disabled"] is True
        assert (await op.ask("POST", f"keys/{id}/disable")).status == 200
        assert (await op.ask("POST", f"keys/{id}/enable", {})).json()["disabled"] is False
        response = await op.ask("DELETE", f"keys/{id}")
        assert response.status == 204
        assert response.body == b""
        assert response.header("content-length") is None
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/disable"), ("POST", "/enable"), ("POST", "/rotate")):
            response = await op.ask(method, f"keys/{id}{path}")
            assert response.status == 404, path
            assert response.error["code"] == "key_not_found"
        assert (await op.ask("PATCH", f"keys/{id}", {"name": "b"})).status == 404
        assert (await op.ask("GET", "keys")).json()["data"] == []


async def test_pages_and_filters() -> None:
    async with operator() as op:
        for number in range(7):
            await op.made(name=f"n{number % 2}", tenant="odd" if number % 2 else "even & more")
        ids = sorted(op.keys.records)
        seen, after, pages = [], "", 0
        while True:
            page = (await op.ask("GET", f"keys?limit=3&after={after}")).json()
            seen += [record["id"] for record in page["data"]]
            pages += 1
            if not page["has_more"]:
                break
            after = page["last_id"]
            op.keys.records.pop(after)  # what the last page ended with may go meanwhile
        assert seen == ids
        assert pages == 3
        assert [one["tenant"] for one in (await op.ask("GET", "keys?tenant=odd")).json()["data"]] == ["odd"] * 2
        data = (await op.ask("GET", "keys?tenant=even%20%26+more&name=n0&limit=1000")).json()["data"]
        assert {one["name"] for one in data} == {"n0"}
        nobody = (await op.ask("GET", "keys?tenant=")).json()
        assert nobody == {"object": "list", "data": [], "has_more": False, "last_id": None}


async def test_a_large_list_leaves_the_loop_its_turns() -> None:
    async with operator() as op:
        for number in range(5000):
            id = f"key_{number:016x}"
            op.keys.records[id] = KeyRecord(id=id, digest=b"", name=f"n{number}")
        turns = 0

        async def ticking() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        listing = asyncio.ensure_future(op.ask("GET", f"keys?limit={MAX_LISTED}"))
        ticker = asyncio.ensure_future(ticking())
        response = await listing
        ticker.cancel()
        assert len(response.json()["data"]) == MAX_LISTED
        assert turns >= MAX_LISTED // module.SLICE


async def test_usage_of_today() -> None:
    async with operator() as op:
        made = await op.made(daily_tokens=100)
        op.keys.rows[made["id"]] = (made["id"], 19_675, 70, 20, 5, 8, 64, 16)
        assert (await op.ask("GET", f"keys/{made['id']}")).json()["usage"] == {
            "date": "2023-11-14",
            "prompt_tokens": 70,
            "completion_tokens": 20,
            "estimated_tokens": 8,
            "cached_tokens": 64,
            "reasoning_tokens": 16,
            "requests": 5,
            "quota": 100,
            "quota_remaining": 10,
        }


@pytest.mark.parametrize(("quota", "remaining"), [(None, None), (0, -1), (89, 0), (90, 0), (91, 1)])
def test_what_is_left_of_a_quota(quota: int | None, remaining: int | None) -> None:
    row = ("key_1", 0, 70, 20, 1, 0, 0, 0)
    assert usage_view(KeyRecord(id="key_1", digest=b"", daily_tokens=quota), row)["quota_remaining"] == remaining


def test_a_record_is_shown_whole_but_for_its_secrets() -> None:
    record = KeyRecord(id="key_1", digest=b"d", previous_digest=b"p", expires_at=1e18, previous_until=NOW + 0.9)
    shown = record_view(record)
    hidden = {"digest", "previous_digest", "revision", "deleted"}
    assert set(shown) == set(KeyRecord.__struct_fields__) - hidden
    assert set(FIELDS) <= set(shown)
    assert shown["expires_at"] == "9999-12-31T23:59:59Z"
    assert shown["previous_until"] == "2023-11-14T22:13:20Z"


async def test_the_audit_is_told_the_newest_first_and_who_it_was() -> None:
    async with operator() as op:
        id = (await op.made(name="a"))["id"]
        await op.ask("POST", f"keys/{id}/disable")
        found = (await op.ask("GET", "audit")).json()
        assert found["object"] == "list"
        assert [entry["action"] for entry in found["data"]] == ["disable", "create"]
        assert found["data"][1] == {
            "id": 1,
            "at": "2023-11-14T22:13:20Z",
            "actor": "admin:127.0.0.1",
            "action": "create",
            "key_id": id,
            "changes": {"name": "a"},
        }
        assert (found["has_more"], found["last_id"]) == (False, 1)
        first = (await op.ask("GET", "audit?limit=1")).json()
        assert (len(first["data"]), first["has_more"], first["last_id"]) == (1, True, 2)
        assert (await op.ask("GET", "audit?limit=1&before=2")).json()["data"] == found["data"][1:]
        assert (await op.ask("GET", "audit?before=1")).json()["data"] == []
        for wrong in ("limit=1001", "after=1", "before=", "before=x", "before=0", "before=9999999999999999"):
            assert (await op.ask("GET", f"audit?{wrong}")).status == 400, wrong


async def test_every_call_is_logged_with_who_what_and_how_it_ended() -> None:
    async with operator() as op:
        id = (await op.made(name="private name"))["id"]
        await op.ask("GET", f"keys/{id}")
        await op.ask("POST", "keys", {"burst": "x"})
        await op.ask("POST", "keys/key_nobody/rotate")
        await op.ask("DELETE", f"keys/{id}")
        await op.ask("GET", "nothing")
        told = [(line["action"], line.get("key_id", ""), line["status"]) for _, _, line in op.log.lines]
        assert told == [
            ("create", id, 201),
            ("show", id, 200),
            ("create", "", 400),
            ("rotate", "key_nobody", 404),
            ("delete", id, 204),
            ("unknown", "", 404),
        ]
        assert {(level, message, line["actor"]) for level, message, line in op.log.lines} == {("info", "admin", "127.0.0.1")}
        assert "private" not in str(op.log.lines)
        assert "fgw_text" not in str(op.log.lines)


async def test_head_is_get_without_the_body() -> None:
    async with operator() as op:
        await op.made(name="a")
        whole = await op.ask("GET", "keys")
        response = await op.ask("HEAD", "keys")
        assert response.status == 200
        assert response.header("content-length") == str(len(whole.body))


async def test_many_callers_at_once() -> None:
    async with operator() as op:

        async def life(number: int) -> None:
            async with RawClient.connect(op.control.url) as client:

                async def ask(method: str, path: str, document: Any = None) -> RawResponse:
                    body = None if document is None else json.dumps(document).encode()
                    await client.send(request(method, f"/admin/{path}", body=body, key=ADMIN_KEY))
                    return await client.read_response()

                made = (await ask("POST", "keys", {"name": f"n{number}"})).json()
                assert made["name"] == f"n{number}"
                shown = (await ask("GET", f"keys/{made['id']}")).json()
                assert shown["name"] == f"n{number}"
                assert (await ask("PATCH", f"keys/{made['id']}", {"burst": number})).json()["burst"] == number
                assert (await ask("DELETE", f"keys/{made['id']}")).status == 204

        await asyncio.gather(*(life(number) for number in range(50)))
        assert len(op.keys.records) == 50
        assert all(record.deleted for record in op.keys.records.values())
        await until(lambda: op.control.open == 0)
