"""Asks a gateway on this machine how it is: one request over one blocking socket, for ``fastgw check --live`` and ``--ready``.

Owns: where a gateway that listens on ``host`` and ``port`` can be asked from its own machine. Must never: take longer than it
was given, or import what only a gateway needs: a health check runs every few seconds.
"""

from __future__ import annotations

import socket
from time import monotonic
from typing import Final

HEAD_BYTES: Final = 4096  # of the answer; its status line is the first of it
ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - listening there means this address too


class Unanswered(Exception):
    """Nobody answered, or not in HTTP; the text says why in one line."""


def ask(path: str, *, host: str, port: int, unix_path: str, timeout_s: float, tls: bool = False) -> int:
    """The status with which a gateway answers ``GET path``: over ``unix_path`` if it has one, else at ``host`` and ``port``, by
    ``tls`` if it speaks that there. (Its certificate is for others: it is on this machine, and told nothing.) One that ends the
    handshake lives, but has no room, or wants a certificate: that is 503 here.

    Raises :class:`Unanswered` within ``timeout_s``.
    """
    deadline = monotonic() + timeout_s
    try:
        with _connected(host, port, unix_path, timeout_s, tls) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            said = b""
            while b"\r\n" not in said and len(said) < HEAD_BYTES:
                sock.settimeout(max(deadline - monotonic(), 0.001))
                more = sock.recv(HEAD_BYTES)
                if not more:
                    break
                said += more
    except TimeoutError as error:
        raise Unanswered(f"no answer within {timeout_s:g} s") from error
    except OSError as error:
        if tls and _is_tls(error):
            return 503
        raise Unanswered(error.strerror or str(error)) from error
    version, _, rest = said.partition(b" ")
    if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
        raise Unanswered("what answered does not speak HTTP")
    return int(rest[:3])


def _connected(host: str, port: int, unix_path: str, timeout_s: float, tls: bool) -> socket.socket:
    if not unix_path:
        plain = socket.create_connection((ANYWHERE.get(host, host), port), timeout_s)
        return _secured(plain) if tls else plain
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(timeout_s)
        sock.connect(unix_path)
    except BaseException:
        sock.close()
        raise
    return sock


def _is_tls(error: OSError) -> bool:
    import ssl

    # (Without a certificate of ours: the alert comes with the first read. Without room: the end comes within the handshake.)
    return isinstance(error, ssl.SSLError | ConnectionResetError) and getattr(error, "reason", "") != "WRONG_VERSION_NUMBER"


def _secured(sock: socket.socket) -> socket.socket:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        return context.wrap_socket(sock)
    except BaseException:
        sock.close()
        raise
