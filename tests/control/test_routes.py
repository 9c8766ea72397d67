"""The table of routes: what a path matches, which methods are there, and who may."""

from __future__ import annotations

import json

import pytest

from fastgw.control.call import AdminAnswer, AdminCall
from fastgw.control.openapi import described_by
from fastgw.control.proof import AdminKey, admin_key
from fastgw.control.routes import Role, Route, Routes, allowed
from fastgw.control.server import ControlServer
from fastgw.protocol.hosts import HostRule
from tests.control.test_server import ADMIN_KEY, Events, ask, the_key
from tests.support.client import RawResponse, request
from tests.support.pages import Written


async def _done(call: AdminCall) -> AdminAnswer:
    return AdminAnswer(204)


def row(method: str, path: str, role: Role = Role.READ) -> Route:
    return Route(method, path, role, f"{method} {path}", _done, "", {204: None})


CALLS = (("GET", "/a"), ("POST", "/a"), ("GET", "/a/{name}"), ("DELETE", "/a/b"), ("GET", "/a/{name}/{id}"))
TABLE = Routes(row(*call) for call in CALLS)


@pytest.mark.parametrize(
    ("path", "methods", "names"),
    [
        ("/a", "GET, HEAD, POST", {}),
        ("/a/x", "GET, HEAD", {"name": "x"}),
        ("/a/b", "DELETE", {}),  # a word goes before a parameter
        ("/a/x%2Fy", "GET, HEAD", {"name": "x/y"}),
        ("/a/%2e%2e", "GET, HEAD", {"name": ".."}),
        ("/a/x/7", "GET, HEAD", {"name": "x", "id": "7"}),
        ("/a/", "", {}),
        ("/a//7", "", {}),
        ("/A", "", {}),
        ("/%61", "", {}),  # the words of a path are as they are written
        ("/a/x/7/", "", {}),
        ("", "", {}),
        ("/", "", {}),
    ],
)
def test_a_path_is_what_a_row_says_and_nothing_else(path: str, methods: str, names: dict[str, str]) -> None:
    found, said = TABLE.match(path)
    assert (allowed(found), said) == (methods, names)


def test_two_rows_for_one_call_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="two rows for GET /a"):
        Routes([row("GET", "/a"), row("GET", "/a")])


def server(*operators: AdminKey, log: Events | None = None) -> ControlServer:
    return ControlServer(
        host="127.0.0.1", port=0, operators=operators, log=log or Events(), metrics=Written(), health=dict, keys=None,
        hosts=HostRule(["x"], ""), config=lambda: {"settings": {}, "restart": []},
    )  # fmt: skip


LOOKS, DOES = "op-who-only-looks", "op-who-does-things"
KEYS = (the_key(ADMIN_KEY), admin_key("grafana", "read", LOOKS), admin_key("deploy", "write", DOES))


async def _call(control: ControlServer, method: str, path: str, key: str | None) -> RawResponse:
    answer: RawResponse = await ask(control, request(method, path, key=key))
    return answer


async def test_every_row_asks_for_a_key_but_two_and_a_page_and_a_reading_one_changes_nothing() -> None:
    control = server(*KEYS)
    await control.start()
    try:
        for one in control.routes:
            path = one.path.replace("{", "").replace("}", "")
            if one.role is Role.OPEN:
                assert one.path in ("/healthz", "/metrics") or one.path.split("/")[1] == "dashboard"
                continue
            control = await _renewed(control)
            assert (await _call(control, one.method, path, None)).status == 401, one
            assert (await _call(control, one.method, path, LOOKS)).status != 401
            refused = await _call(control, one.method, path, LOOKS)
            forbidden = refused.status == 403 and refused.error["message"] == "This admin key may only read."
            assert forbidden == (one.method != "GET"), one
    finally:
        await control.stop()


async def _renewed(control: ControlServer) -> ControlServer:
    """Another one: guesses at keys are counted."""
    await control.stop()
    other = server(*KEYS)
    await other.start()
    return other


async def test_the_log_says_whose_key_it_was() -> None:
    log = Events()
    control = server(*KEYS, log=log)
    await control.start()
    try:
        for key, status in ((LOOKS, 200), (DOES, 200), (ADMIN_KEY, 200), (LOOKS, 403)):
            path, method = ("/admin/config", "GET") if status == 200 else ("/admin/reload", "POST")
            assert (await _call(control, method, path, key)).status == status
    finally:
        await control.stop()
    told = [(fields["by"], fields["action"], fields["status"]) for _, message, fields in log.lines if message == "admin"]
    assert told == [("grafana", "config", 200), ("deploy", "config", 200), ("admin", "config", 200), ("grafana", "reload", 403)]
    assert not any(key in str(log.lines) for key in (LOOKS, DOES, ADMIN_KEY))


async def test_whoever_has_a_key_is_told_what_there_is() -> None:
    control = server(*KEYS)
    await control.start()
    try:
        listed = (await _call(control, "GET", "/admin", LOOKS)).json()["data"]
        assert {"method": "POST", "path": "/admin/engines", "role": "write", "summary": "An engine more"} in listed
        nowhere = await _call(control, "GET", "/admin/engine", LOOKS)
        assert nowhere.status == 404
        assert "/admin/engines/{name}" in nowhere.error["message"]
        assert "/admin" not in (await _call(control, "GET", "/nowhere", None)).error["message"], "nor is anybody else"
        wrong = await _call(control, "PUT", "/admin/engines", DOES)
        assert (wrong.status, wrong.header("allow")) == (405, "GET, HEAD, POST")
        document = (await _call(control, "GET", "/admin/openapi.json", LOOKS)).json()
        assert document == json.loads(json.dumps(described_by(control.routes)))
        assert {(path, method.upper()) for path, methods in document["paths"].items() for method in methods} == {
            (one.path, one.method) for one in control.routes
        }
    finally:
        await control.stop()
