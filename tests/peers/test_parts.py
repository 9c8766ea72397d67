"""Each real peer by itself: it starts, speaks what it is meant to, and is gone afterwards. Of fastgw there is the simulator."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import AbstractContextManager, ExitStack

import pytest

from tests.peers import parts
from tests.support.h2 import frames as f
from tests.support.h2.peer import Client, dial

pytestmark = pytest.mark.peers

CHAT = "/v1/chat/completions"
ASKED = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 4})

ORIGINS = {
    "nghttpd": parts.nghttpd,
    "hypercorn": parts.hypercorn,
    "granian": parts.granian,
    "nginx": parts.nginx,
    "haproxy": parts.haproxy,
}


@pytest.mark.parametrize("name", parts.each(*ORIGINS))
def test_an_origin_answers_over_h2c_and_is_gone_afterwards(name: str) -> None:
    with ORIGINS[name]() as peer, dial(peer.port, Client()) as client:
        client.begins().says(f.request(1, path=b"/hello"), f.request(3, path=b"/hello"))
        for stream in (1, 3):
            assert client.until(f"HEADERS {stream} :status=200") is not None, peer.said()
            assert client.until(f"DATA {stream} end") is not None
            assert client.peer.body(stream) == b"hello"
        client.says(f.ping(b"are you?"))
        assert client.until("PING ack opaque=61726520796f753f") is not None
        assert peer.stop() is not None, "it ends when it is asked to"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", peer.port), timeout=1)


@pytest.mark.parametrize("name", parts.each("hypercorn", "granian"))
def test_asgi_origins_stream_and_echo(name: str) -> None:
    with ORIGINS[name]() as peer, dial(peer.port, Client()) as client:
        client.begins().says(f.request(1, path=b"/events?n=3&ms=5"), f.request(3, b"a body", path=b"/echo"))
        assert client.until("DATA 1 end") is not None
        assert client.peer.body(1) == b"data: 0\n\ndata: 1\n\ndata: 2\n\ndata: [DONE]\n\n"
        if client.peer.count("DATA 3 end") == 0:
            assert client.until("DATA 3 end") is not None
        assert client.peer.body(3) == b"a body"
        client.says(f.request(5, path=b"/silent"))
        assert client.until("DATA 5 length=4") is not None
        client.says(f.rst(5), f.request(7, path=b"/hello"))
        assert client.until("DATA 7 end") is not None


def _proxy(
    name: str, engine: int, engine_h2: bool, tls: parts.Certificate | None = None
) -> AbstractContextManager[parts.Running]:
    if name == "nginx":
        return parts.nginx(engine, tls=tls)
    made = parts.nghttpx if name == "nghttpx" else parts.haproxy
    return made(engine, engine_h2=engine_h2, tls=tls)


PROXIES = [
    pytest.param(name, engine_h2, marks=parts.needs(name))
    for name, engine_h2 in (("nghttpx", False), ("nghttpx", True), ("haproxy", False), ("haproxy", True), ("nginx", False))
]


@pytest.mark.parametrize(("name", "engine_h2"), PROXIES)
def test_a_proxy_with_h2_before_the_simulator(name: str, engine_h2: bool) -> None:
    with parts.sim() as engine, _proxy(name, engine.port, engine_h2) as peer, dial(peer.port, Client()) as client:
        client.begins()
        for stream in (1, 3):
            client.says(f.request(stream, ASKED.encode(), "content-type: application/json", path=CHAT.encode()))
        for stream in (1, 3):
            assert client.until(f"HEADERS {stream} :status=200") is not None, peer.said()
            assert client.until(f"DATA {stream} end") is not None
            assert client.peer.body(stream).endswith(b"data: [DONE]\n\n")
        if not parts.missing("curl"):
            seen = json.loads(parts.curl(f"{engine.url}/debug/requests", h2=False).stdout)
            assert [one["protocol"] for one in seen] == ["HTTP/2" if engine_h2 else "HTTP/1.1"] * 2


@parts.needs("curl")
def test_curl() -> None:
    with parts.sim() as engine:
        told = parts.curl(engine.url + CHAT, "-d", ASKED, "-w", "%{http_version} %{http_code}")
        assert told.stdout.endswith(b"data: [DONE]\n\n2 200"), told


@parts.needs("nghttp")
def test_nghttp() -> None:
    with parts.sim() as engine:
        assert json.loads(parts.run("nghttp", engine.url + "/v1/models").stdout)["object"] == "list"


@parts.needs("h2load")
def test_h2load() -> None:
    with parts.sim() as engine:
        report = parts.h2load(engine.url + "/health", 300, clients=3, streams=20)
        assert "300 2xx" in report
        with pytest.raises(AssertionError, match="0 succeeded"):
            parts.h2load(f"http://127.0.0.1:{parts.free_port()}/", 3)


@parts.needs("openssl")
@pytest.mark.parametrize("name", parts.each("nghttpd", "nghttpx", "nginx", "haproxy", "hypercorn", "granian"))
def test_with_tls_each_offers_h2(name: str) -> None:
    with ExitStack() as stack:
        tls = stack.enter_context(parts.certificate("engine.test"))
        if name in ORIGINS and name not in ("nginx", "haproxy"):
            peer = stack.enter_context(ORIGINS[name](tls=tls))
        else:
            engine = stack.enter_context(parts.sim())
            peer = stack.enter_context(_proxy(name, engine.port, False, tls))
        said = parts.run(
            *("openssl", "s_client", "-connect", f"127.0.0.1:{peer.port}", "-alpn", "h2,http/1.1"),
            *("-servername", "engine.test", "-CAfile", tls.cert, "-verify_return_error"),
        )  # fmt: skip
        assert b"ALPN protocol: h2" in said.stdout, said
        assert b"Verify return code: 0 (ok)" in said.stdout
        if not parts.missing("curl"):
            told = parts.curl(f"https://127.0.0.1:{peer.port}/hello", "-o", "/dev/null", "-w", "%{http_version}", ca=tls)
            assert told.stdout == b"2", told


def test_what_does_not_start_says_why() -> None:
    with pytest.raises(AssertionError, match="invalid choice"), parts.sim("--h2-profile", "apache"):
        pass


def test_nothing_outlives_a_test_that_is_killed() -> None:
    """The program is a child of ``timeout``, in a session of its own: both are seen, and the limit."""
    with parts.sim() as engine:
        argv = subprocess.run(
            ["ps", "-o", "sid=,args=", "-g", str(engine.child.pid)], capture_output=True, text=True, check=False
        ).stdout  # fmt: skip
        assert re.search(
            rf"^\s*{engine.child.pid} timeout --kill-after=1 {parts.LIFE_S} {re.escape(sys.executable)}", argv, re.M
        )
        assert os.getsid(engine.child.pid) == engine.child.pid
