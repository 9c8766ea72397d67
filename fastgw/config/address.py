"""Addresses as people write them: engine URLs, ``host:port`` pairs, and what counts as this machine only.

Owns: the reading of ``http://host:port/base``, ``https://`` and ``unix:/path``. Must never: look a name up, or put the text
that it could not read into a message (a URL may hold a password).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

import msgspec

# sun_path holds 108 bytes, the last of which is the terminating zero.
MAX_UNIX_PATH_BYTES: Final = 107

TUNNELS: Final = ".tunnel.invalid"
"""What ends the name of an engine that nobody dials: its runner has. (RFC 6761 §6.4: no such name is ever found.)"""

_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})?\Z")
# (Compiled by who needs them: half a millisecond of every start.)
_IPV6: Final = r"[0-9A-Fa-f:.]{2,45}"
_BASE: Final = r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+"


class EngineAddress(msgspec.Struct, frozen=True):
    """Where an engine listens: either ``host`` and ``port``, or ``unix_path``; ``base`` is put before each path. ``secure``: it
    speaks TLS."""

    host: str = ""
    port: int = 0
    base: str = ""
    unix_path: str = ""
    secure: bool = False

    @property
    def authority(self) -> str:
        """What goes into the ``Host`` field: ``host``, ``host:port`` or ``localhost`` for a Unix socket."""
        if self.unix_path:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The same address in its one written form (no slash at the end, the port always there)."""
        if self.unix_path:
            return f"unix:{self.unix_path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}{self.base}"

    @property
    def label(self) -> str:
        """A short name for logs and metrics."""
        return self.url.removeprefix("http://").removeprefix("https://")


def _is_number(text: str, digits: int) -> bool:
    """(Not by a pattern: compiling one takes longer than all the rest of an address.)"""
    return len(text) <= digits and text.isascii() and text.isdigit()


_ENDPOINTS: Final = (
    "/chat/completions", "/completions", "/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/models", "/api/chat",
    "/api/generate",
)  # fmt: skip
"""Paths of requests, which are copied from an example in the place of the engine's address."""


def parse_port(text: str) -> int:
    """A port from 1 to 65535 as plain digits; raises ``ValueError``."""
    if not _is_number(text, 5) or not 1 <= int(text) <= 65535:
        raise ValueError("the port must be a number from 1 to 65535")
    return int(text)


def parse_host(text: str) -> str:
    """A host name, an IPv4 address or an IPv6 address (with or without brackets); raises ``ValueError``."""
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
        if ":" not in text:
            raise ValueError("only an IPv6 address goes into brackets")
    if ":" in text:
        if re.fullmatch(_IPV6, text):
            import ipaddress  # 3 ms that only an IPv6 literal pays

            try:
                return str(ipaddress.IPv6Address(text))
            except ValueError:
                pass
        raise ValueError("this is not an IPv6 address")
    if not _HOST.match(text) or ".." in text:
        raise ValueError("this is neither a host name nor an address")
    if not text.strip("0123456789.") and not _is_ipv4(text):
        raise ValueError("this is not an IPv4 address")
    return text.lower()


def parse_host_port(text: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port``; raises ``ValueError``."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or (":" in host and not host.startswith("[")):
        raise ValueError("write it as host:port")
    return parse_host(host), parse_port(port)


def parse_engine_url(text: str) -> EngineAddress:
    """Read an engine's URL; raises ``ValueError`` with a sentence that does not repeat the text.

    A trailing slash goes, and so does a trailing ``/v1``: it is the habit of client libraries' ``base_url``, and the
    paths that the gateway appends begin with it.
    """
    text = text.strip()
    if any(ord(char) <= 0x20 or ord(char) >= 0x7F for char in text):
        raise ValueError("the URL has a blank, a control character or a character outside ASCII")
    if text.startswith("unix:"):
        path = text[5:]
        if path.startswith("//"):
            path = path[2:]
        if not path.startswith("/") or path.endswith("/"):
            raise ValueError("a Unix socket is written unix:/absolute/path")
        if len(path) > MAX_UNIX_PATH_BYTES:
            raise ValueError(f"the socket's path is longer than {MAX_UNIX_PATH_BYTES} bytes")
        return EngineAddress(unix_path=path)
    scheme, separator, rest = text.partition("://")
    secure = scheme.lower() == "https"
    if not separator or scheme.lower() not in ("http", "https"):
        raise ValueError("the URL must be http://host:port, https://host:port or unix:/path")
    authority, slash, tail = rest.partition("/")
    if "@" in authority:
        raise ValueError("the URL holds a user name or password: put the engine's key into api_key instead")
    if "?" in rest or "#" in rest:
        raise ValueError("the URL must end with its path: no ? and no #")
    host, port = authority, 443 if secure else 80
    bracket = authority.rfind("]")
    if ":" in authority[bracket + 1 :]:
        host, _, digits = authority.rpartition(":")
        port = parse_port(digits)
    if ":" in host and not host.startswith("["):
        raise ValueError("an IPv6 address goes into brackets: http://[::1]:8000")
    path = (slash + tail).rstrip("/")
    for endpoint in _ENDPOINTS:
        if path.endswith(endpoint):
            ours = "/v1" + endpoint if path.endswith("/v1" + endpoint) else endpoint
            raise ValueError(f"the URL must end before {ours}: each request's own path is put behind it")
    base = path.removesuffix("/v1")
    if base and (not re.fullmatch(_BASE, base) or any(part in {".", ".."} for part in base.split("/"))):
        raise ValueError("the URL's path must be plain: letters, digits and -._~ between single slashes")
    return EngineAddress(host=parse_host(host), port=port, base=base, secure=secure)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on ``host``. Names other than ``localhost`` are not looked up."""
    return host in {"localhost", "::1"} or (host.startswith("127.") and _is_ipv4(host))


def everywhere(host: str) -> str:
    """What a listener on all addresses like ``host`` is bound to; to who dials it is this machine."""
    return "::" if ":" in host else "0.0.0.0"  # noqa: S104 - nothing is bound here


def reaches(host: str, bound: Collection[str]) -> bool:
    """Whether who dials ``host`` comes to a listener on one of the addresses ``bound`` of this machine, as far as texts say.
    (One on ``::`` takes no IPv4 here.)"""
    if host == "localhost":
        return reaches("127.0.0.1", bound) or reaches("::1", bound)
    every = everywhere(host)
    if host in bound or (is_loopback(host) and every in bound):
        return True
    return host == every and ("::1" if ":" in host else "127.0.0.1") in bound


def _is_ipv4(text: str) -> bool:
    parts = text.split(".")
    return len(parts) == 4 and all(
        _is_number(part, 3) and (part == "0" or part[0] != "0") and int(part) < 256 for part in parts
    )
