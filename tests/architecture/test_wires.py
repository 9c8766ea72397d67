"""What HTTP/1 looks like on a wire, and the wire itself, is known below: above ``net`` a message has a method, a status,
fields, a length and a body, however it travels.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.architecture.sources import modules, unlike

# Those that know nothing of how a request travels. (The simulator, the bench and the control listener have a way of their own.)
ABOVE = {
    "exchange", "policy", "upstream", "observe", "store",
    "app", "doors", "engines", "housekeeping", "keyring", "serve", "vitals",
}  # fmt: skip

# A start line; a field that frames a message, or belongs to a connection; a chunk.
HTTP1 = re.compile(
    rb"(?i)HTTP/1|(?:\A|\n)(?:transfer-encoding|content-length|connection|keep-alive|te|trailer|upgrade|expect|host) *:"
    rb"|%x\r\n|\A0\r\n\r\n"
)
# An engine's Host line is part of the block that all requests to it begin with.
WRITTEN = ("fastgw.upstream.target",)

# Of `net.wire` others may know what a write comes to, and how an address is written.
FREE = {"SENT", "QUEUED", "DEAD", "Address"}
# `doors` makes the clients' connections, the pool those to engines.
MAKERS = (
    "fastgw.doors: fastgw.net.h1_connection.H1Connection",
    "fastgw.doors: fastgw.net.h2_connection.H2Connection",
    "fastgw.doors: fastgw.net.wire.PlainWire",
    "fastgw.upstream.h2_slots: fastgw.net.h2_stream.H2UpstreamStream",
    "fastgw.upstream.h2_slots: fastgw.net.h2_upstream_tunnel.H2UpstreamTunnel",
    "fastgw.upstream.h2_slots: fastgw.net.h2_upstream.H2Home",
    "fastgw.upstream.h2_slots: fastgw.net.h2_upstream.H2UpstreamConn",
    "fastgw.upstream.h2_slots: fastgw.net.wire.Wire",
    "fastgw.upstream.pool: fastgw.net.wire.PlainWire",
    "fastgw.upstream.pool: fastgw.net.wire.Wire",
    "fastgw.upstream.pool: fastgw.net.h1_upstream.H1UpstreamConn",
    "fastgw.upstream.pool: fastgw.net.h1_upstream.H1UpstreamStream",
    "fastgw.upstream.pool: fastgw.net.h1_upstream.Home",
)
HELD = {"wire", "fd", "sock", "recv", "sendmsg"}
HOLDERS = ("fastgw.upstream.pool", "fastgw.observe.export")  # (the second urllib3's, to a collector)


def _above() -> Iterator[tuple[str, ast.AST]]:
    for name, tree in modules("fastgw").items():
        if "." in name and name.split(".")[1] in ABOVE:
            for node in ast.walk(tree):
                yield name, node


def test_http1_is_written_below() -> None:
    found = {name for name, node in _above()
             if isinstance(node, ast.Constant) and isinstance(node.value, bytes) and HTTP1.search(node.value)}  # fmt: skip
    assert unlike(found, WRITTEN) == []


@pytest.mark.parametrize(("text", "is_http1"), [
    (b"HTTP/1.1 %d %b\r\n", True),
    (b"x-a: 1\r\nTransfer-Encoding: chunked\r\n", True),
    (b"connection: close\r\n", True),
    (b"%x\r\n%b\r\n", True),
    (b"0\r\n\r\n", True),
    (b"x-request-id: %b\r\n", False),
    (b"retry-after: 1\r\n", False),
    (b"x-forwarded-host: %b\r\n", False),
    (b"\n\n", False),
])  # fmt: skip
def test_what_is_http1(text: bytes, is_http1: bool) -> None:
    assert bool(HTTP1.search(text)) == is_http1


def test_connections_are_made_in_two_places() -> None:
    found = {
        f"{name}: {node.module}.{alias.name}"
        for name, node in _above()
        if isinstance(node, ast.ImportFrom) and node.module
        and (node.module == "fastgw.net.wire" or node.module.startswith(("fastgw.net.h1_", "fastgw.net.h2_")))
        and node.module not in {"fastgw.net.h2_fetch", "fastgw.net.h2_greeting"}
        for alias in node.names
        if not (node.module == "fastgw.net.wire" and alias.name in FREE)
    }  # fmt: skip
    found |= {
        f"{name}: {alias.name}"
        for name, node in _above()
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if alias.name.startswith(("h1_", "fastgw.net.h1_", "fastgw.net.wire")) or (alias.name == "wire")
    }
    assert unlike(found, MAKERS) == []


def test_nobody_above_touches_a_wire() -> None:
    found = {name for name, node in _above() if isinstance(node, ast.Attribute) and node.attr in HELD}
    assert unlike(found, HOLDERS) == []
