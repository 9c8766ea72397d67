"""Floods and abuses are what their rows say: a real server or client that has a bound ends each, or it is named as ours."""

from __future__ import annotations

import socket
import subprocess

import pytest

from tests.h2cases import hostile
from tests.h2cases.case import play
from tests.h2cases.test_client_cases import PROGRAMS
from tests.h2cases.test_server_cases import TARGETS, against
from tests.peers import parts
from tests.support.h2.peer import OverSocket, Server

pytestmark = pytest.mark.peers

OF_CLIENT = {case.id: case for case in hostile.of_client(b"/hello")}
OF_SERVER = {case.id: case for case in hostile.of_server()}
# nghttp2's bounds are on what its answers cost; nginx counts frames that serve nothing against the bytes of bodies.
ENDS = {
    **dict.fromkeys(("H2/3", "H2/4", "H2/5", "H2/6", "H4/1", "H4/2", "H4/3", "H6/7"), "nghttpd"),
    **dict.fromkeys(("H2/1", "H2/2", "H5/1", "H6/3"), "nginx"),
    **dict.fromkeys((id for id in OF_CLIENT if id.startswith("H9/")), "nghttpd"),
    "H9/20": "simulator",  # nghttpd takes a host that is not :authority
}
OURS = {"H5/2", "H6/1", "H6/2", "H6/4", "H6/5", "H6/6"}
"""None of the servers here ends these, as long as their answers are read: they take a budget for frames that serve nothing."""

OURS_OF_SERVER = {"G9/4", "G9/5", "G9/6"}
"""curl and nghttp take these."""
ENDED = {id: "curl" for id in OF_SERVER if id not in OURS_OF_SERVER}


@pytest.mark.parametrize(
    ("id", "target"),
    [pytest.param(id, name, marks=parts.needs(*([name] if name != "simulator" else []))) for id, name in ENDS.items()],
)
def test_a_server_with_a_bound_ends_it(id: str, target: str) -> None:
    with TARGETS[target]() as running:
        against(running.port, OF_CLIENT[id])


def test_each_row_is_ended_by_somebody_or_is_ours() -> None:
    assert set(ENDS) | OURS == set(OF_CLIENT)
    assert not set(ENDS) & OURS
    assert set(ENDED) | OURS_OF_SERVER == set(OF_SERVER)


def client(name: str, id: str, wait_s: float = 2.0) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        argv = PROGRAMS[name](listener.getsockname()[1])
        child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            sock, _ = listener.accept()
            with OverSocket(Server(strict=False), sock) as line:
                head = line.begins().until("HEADERS")
                assert head is not None
                play(line, next(case for case in hostile.of_server(head.stream) if case.id == id), wait_s=wait_s)
        finally:
            child.kill()
            child.wait()


@pytest.mark.parametrize(("id", "name"), [pytest.param(id, name, marks=parts.needs(name)) for id, name in ENDED.items()])
def test_a_client_with_a_bound_ends_it(id: str, name: str) -> None:
    client(name, id)
