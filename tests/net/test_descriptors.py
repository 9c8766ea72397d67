"""Bare descriptors: who comes and from where, and what the other end sees of each way to go."""

from __future__ import annotations

import errno
import os
import select
import socket
from pathlib import Path

import pytest

from fastgw.net.descriptors import abort, accept, close, dial_error, finish
from tests.net.talk import tcp_pair


def came(listening: socket.socket) -> tuple[socket.socket, str]:
    select.select([listening], [], [], 5.0)
    found = accept(listening)
    assert found is not None
    return socket.socket(fileno=found[0]), found[1]


@pytest.mark.parametrize(
    ("family", "bound", "dialled", "ip"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1", "::1"),
        (socket.AF_INET6, "::", "127.0.0.1", "127.0.0.1"),  # mapped into IPv6 by the kernel
    ],
)
def test_who_comes_and_from_where(family: socket.AddressFamily, bound: str, dialled: str, ip: str) -> None:
    with socket.create_server((bound, 0), family=family, dualstack_ipv6=bound == "::") as listening:
        listening.setblocking(False)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert accept(listening) is None, "nobody has come"
        with socket.create_connection((dialled, listening.getsockname()[1])):
            sock, found = came(listening)
            with sock:
                assert found == ip
                assert not os.get_blocking(sock.fileno())
                assert not os.get_inheritable(sock.fileno())
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), "handed down"
        assert accept(listening) is None


def of_a_link() -> tuple[str, int] | None:
    """An address of this machine's that holds on one link only, and which."""
    for line in Path("/proc/net/if_inet6").read_text().splitlines():
        words = line.split()
        if words[3] == "20":
            return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0])), int(words[1], 16)
    return None


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6") or of_a_link() is None, reason="no address of a link here")
def test_an_address_of_a_link_is_told_without_its_zone() -> None:
    found = of_a_link()
    assert found is not None
    ip, zone = found
    with socket.create_server((ip, 0, 0, zone), family=socket.AF_INET6) as listening:
        listening.setblocking(False)
        with socket.socket(socket.AF_INET6) as client:
            client.connect(listening.getsockname())
            sock, told = came(listening)
            sock.close()
            assert told == ip, "x-forwarded-for has no zone, nor has the log"


def test_a_unix_socket_has_no_address(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(str(tmp_path / "here"))
        listening.listen()
        listening.setblocking(False)
        client.connect(str(tmp_path / "here"))
        sock, found = came(listening)
        sock.close()
        assert found == "unix"


def test_without_descriptors_it_says_so() -> None:
    with socket.socket() as listening, pytest.raises(OSError, match="Invalid argument"):
        accept(listening)  # (one that does not listen stands for it: the kernel's word is passed on)


def test_what_the_other_end_sees_of_each_way_to_go() -> None:
    for go, seen in ((close, b""), (finish, b""), (abort, None)):
        ours, theirs = tcp_pair()
        theirs.settimeout(5.0)
        fd = ours.detach()
        go(fd)
        if seen is None:
            with pytest.raises(ConnectionResetError):
                theirs.recv(1)
        else:
            assert theirs.recv(1) == seen
        if go is finish:
            theirs.send(b"heard")
            assert os.read(fd, 9) == b"heard", "the other way is open still"
            close(fd)
        theirs.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_descriptor_that_is_gone() -> None:
    sock = socket.socket()
    fd = sock.fileno()
    sock.close()
    for call in (close, finish, dial_error):
        with pytest.raises(OSError, match="Bad file descriptor"):
            call(fd)


def test_how_a_dial_went() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        for code in (0, errno.ECONNREFUSED):
            with socket.socket() as sock:
                sock.setblocking(False)
                assert sock.connect_ex(address) == errno.EINPROGRESS
                select.select([], [sock], [], 5.0)
                assert dial_error(sock.fileno()) == code
                assert dial_error(sock.fileno()) == 0, "it is told once"
            listening.close()
