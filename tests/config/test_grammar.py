"""Single values of the configuration: what is taken, and the one sentence that is said of what is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastgw.config import grammar

TAKEN: list[tuple[Callable[[Any], list[str]], list[Any]]] = [
    (grammar.engine_url, ["http://a:1", "unix:/run/a.sock"]),
    (grammar.address, ["127.0.0.1", "::1", "0.0.0.0", "localhost"]),
    (grammar.host_port, ["", "127.0.0.1:0", "127.0.0.1:65535", "[::1]:80"]),
    (grammar.socket_path, ["", "/run/a.sock", "/" + "x" * 106]),
    (grammar.engine_key, ["", "k", "x" * 1024]),
    (grammar.admin_key, ["", "x" * 16]),
    (grammar.target, ["", "/", "/health", "/a?b=%20"]),
    (grammar.paths, [[], ["/v1/a"], ["/v1/a/b/*"], ["/v1/..a"], ["/infill"], ["/api/*"], ["/api/embed"], ["/healthy", "/wsx"]]),
    (grammar.origins, [["*"], ["http://a"], ["https://a.b:8443"], ["http://[::1]:3000"]]),
    (grammar.hosts, [["*"], ["*.a.b"], ["a_b.c"]]),
    (grammar.networks, [[], ["10.0.0.0/8"], ["10.0.0.1/8"], ["::1"]]),
    (grammar.statuses, [[], ["429", "503"]]),
]

REFUSED: list[tuple[Callable[[Any], list[str]], Any, str]] = [
    (grammar.engine_url, "ftp://a", "http"),
    (grammar.address, "a b", "host name"),
    (grammar.host_port, "127.0.0.1", "host:port"),
    (grammar.host_port, "a:65536", ""),
    (grammar.socket_path, "/" + "\u00e4" * 60, "107 bytes"),
    (grammar.engine_key, "two words", "without blanks"),
    (grammar.engine_key, "x" * 1025, "visible ASCII"),
    (grammar.engine_key, "key\n", "visible ASCII"),
    (grammar.admin_key, "x" * 15, "16 characters"),
    (grammar.admin_key, "\u00e4" * 20, "visible ASCII"),
    (grammar.target, "health", "begins with /"),
    (grammar.target, "/a b", "begins with /"),
    (grammar.paths, ["v1/a"], "'v1/a'"),
    (grammar.paths, ["/*"], "'/*'"),
    (grammar.paths, ["/v1/*"], "name what is meant, as /v1/files and /v1/files/*"),
    *[(grammar.paths, [path], path) for path in ("/health", "/ready/*", "/ws/*", "/ws/runners", "/admin/keys", "/metrics")],
    (grammar.paths, ["/v1/a/../b"], "'/v1/a/../b'"),
    (grammar.paths, ["/v1/a*"], "'/v1/a*'"),
    (grammar.origins, ["a"], "scheme://host"),
    (grammar.origins, ["http://A"], "writes 'http://a'"),
    (grammar.origins, ["https://a:443"], "writes 'https://a'"),
    (grammar.hosts, ["a:80"], "without a port"),
    (grammar.hosts, ["b\u00fccher"], "punycode"),
    (grammar.networks, ["10.0.0.0/33"], "10.0.0.0/8"),
    (grammar.statuses, ["404"], "'404' must be one of 429"),
]


@pytest.mark.parametrize(("check", "values"), TAKEN, ids=lambda one: getattr(one, "__name__", ""))
def test_what_is_taken(check: Callable[[Any], list[str]], values: list[Any]) -> None:
    assert [(value, check(value)) for value in values if check(value)] == []


@pytest.mark.parametrize(("check", "value", "part"), REFUSED, ids=lambda one: getattr(one, "__name__", ""))
def test_what_is_refused_is_told_in_one_sentence(check: Callable[[Any], list[str]], value: Any, part: str) -> None:
    (told,) = check(value)
    assert part in told
    assert "\n" not in told


def test_no_sentence_holds_a_key() -> None:
    for check in (grammar.engine_key, grammar.admin_key):
        assert not any("sec ret" in told for told in check("sec ret"))
