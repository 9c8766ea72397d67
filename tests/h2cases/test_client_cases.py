"""The cases of clients are right: curl and nghttp (both on nghttp2) and the stock h2 package pass them, but for what is said.

For a client under test there is :func:`against`: a listening socket, and how to have the client ask. Where there is a machine
without I/O, ``case.play`` takes a ``Talk``: :func:`stock` shows how.
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError

from tests.h2cases import client
from tests.h2cases.case import WAIT_S, Case, play
from tests.peers import parts
from tests.support.h2.peer import OverSocket, Server, Talk

pytestmark = pytest.mark.peers

CASES = {case.id: case for case in client.cases()}
FIELDS = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "e")]


def against(listener: socket.socket, id: str, strict: bool = False, wait_s: float = WAIT_S) -> None:
    """The next client that comes asks once; then the case of that id is played on its request's stream."""
    listener.settimeout(5)
    sock, _ = listener.accept()
    with OverSocket(Server(strict=False), sock) as line:
        line.begins()
        head = line.until("HEADERS")
        assert head is not None, "it has not asked"
        case = next(case for case in client.cases(head.stream) if case.id == id)
        play(line, case, strict, wait_s)


PROGRAMS: dict[str, Callable[[int], list[str]]] = {
    "curl": lambda port: ["curl", "-s", "--max-time", "5", "--http2-prior-knowledge", f"http://127.0.0.1:{port}/"],
    "nghttp": lambda port: ["nghttp", "--timeout=5", f"http://127.0.0.1:{port}/"],
}


def program(name: str, id: str, strict: bool = True, wait_s: float = WAIT_S) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        argv = PROGRAMS[name](listener.getsockname()[1])
        child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            against(listener, id, strict, wait_s)
        finally:
            child.kill()
            child.wait()


def stock(case: Case) -> None:
    machine = H2Connection(H2Configuration(client_side=True))
    machine.initiate_connection()
    broken: list[bool] = []

    def feed(data: bytes) -> None:
        with suppress(ProtocolError):
            if not broken:
                broken.append(True)
                machine.receive_data(data)
                broken.clear()

    talk = Talk(Server(strict=False), feed, machine.data_to_send, closed=lambda: bool(broken)).begins()
    machine.send_headers(1, FIELDS, end_stream=True)
    talk.sees("HEADERS 1 end")
    play(talk, case, strict=True)


# Who asks once leaves when it is answered: to such a one only the end of the connection can be seen.
LEAVES = {
    *("client/1/1", "client/4.2/1", "client/5.1/5", "client/5.1/6", "client/5.1/7", "client/5.1/8", "client/5.1/9"),
    *("client/5.1/10", "client/6.1/2", "client/6.10/1", "client/6.10/5"),
}
FAILS = {
    "curl": {},
    "nghttp": {"client/8/21": "it takes what is pushed"},
    "stock": {
        "client/4.3/1": "it says PROTOCOL_ERROR of a block that cannot be decoded",
        "client/5.1/2": "it ignores RST_STREAM of a stream that never was",
        "client/6.4/2": "the same",
        "client/6.5/1": "it says PROTOCOL_ERROR",
        "client/8/3": "a status is any text to it",
        "client/8/21": "it takes what is pushed, unless told not to",
    },
}


@pytest.mark.parametrize("id", CASES)
@pytest.mark.parametrize("name", parts.each(*PROGRAMS))
def test_a_real_client_passes(name: str, id: str) -> None:
    if id in FAILS[name]:
        with pytest.raises(AssertionError, match=re.escape(id)):
            program(name, id, wait_s=0.2)
        return
    program(name, id, strict=id not in LEAVES)


@pytest.mark.parametrize("id", CASES)
def test_the_stock_machine(id: str) -> None:
    if id not in FAILS["stock"]:
        stock(CASES[id])
        return
    with pytest.raises(AssertionError, match=re.escape(id)):
        stock(CASES[id])


def test_every_section_of_h2specd_has_its_rows() -> None:
    """It has 57; section 8 is ours."""
    found = Counter(id.split("/")[1] for id in CASES)
    assert found.pop("8") == 21
    assert found == {
        "1": 1, "4.1": 3, "4.2": 3, "4.3": 3, "5.1": 10, "5.1.1": 1, "5.4.1": 2, "5.5": 2, "6.1": 3, "6.2": 3, "6.3": 2,
        "6.4": 3, "6.5": 3, "6.5.2": 5, "6.5.3": 1, "6.7": 4, "6.8": 1, "6.9": 3, "6.9.1": 2, "6.10": 6,
    }  # fmt: skip
    assert found.total() >= 57
