"""Sending, with as little ceremony as Python allows: threads over blocking sockets, on the load's core.

Owns: the counting of what was sent. Must never send to any address but this machine's.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

TIMEOUT_S: Final = 20.0


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Sent:
    """What one attack has come to."""

    def __init__(self) -> None:
        self.bytes = 0
        self.pieces = 0


def send_for(port: int, piece: Callable[[], bytes], times: int, seconds: float, connections: int = 4) -> Sent:
    """Send ``piece()`` again and again for ``seconds`` on some connections, each waiting for its answers (``times`` of them, or
    the end of the connection) before it goes on."""
    total = Sent()
    lock = threading.Lock()
    end = time.monotonic() + seconds

    def one() -> None:
        sock: socket.socket | None = None
        while time.monotonic() < end:
            data = piece()
            try:
                if sock is None:
                    sock = connect(port)
                whole = exchange(sock, data, times)
            except OSError:
                whole = False
            with lock:
                total.bytes += len(data)
                total.pieces += 1
            if not whole or not data:
                if sock is not None:
                    sock.close()
                sock = None
        if sock is not None:
            sock.close()

    threads = [threading.Thread(target=one) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return total


def exchange(sock: socket.socket, data: bytes, times: int) -> bool:
    """Send, and read ``times`` answers; False when the connection ended before."""
    if not data:
        return True
    sender = None
    if len(data) > 30_000:
        # Answers may come before all is sent: who does not read them would wait for ever.
        sender = threading.Thread(target=_send, args=(sock, data))
        sender.start()
    else:
        sock.sendall(data)
    try:
        left, tail = times, b""
        while left:
            got = sock.recv(262_144)
            if not got:
                return False
            tail += got
            left -= tail.count(b"HTTP/1.1 ")
            tail = tail[-8:]
            if left <= 0:
                # The last answer's body may still be on its way.
                return _drained(sock)
        return True
    finally:
        if sender is not None:
            sender.join()


def _send(sock: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        sock.sendall(data)


def _drained(sock: socket.socket) -> bool:
    sock.settimeout(0.002)
    try:
        while True:
            if not sock.recv(262_144):
                return False
    except TimeoutError:
        return True
    except OSError:
        return False
    finally:
        sock.settimeout(TIMEOUT_S)


@contextmanager
def held(port: int, wire: bytes, connections: int) -> Iterator[int]:
    """Connections on which ``wire`` was sent, open; gives how many bytes were sent in all."""
    socks = []
    try:
        for _ in range(connections):
            sock = connect(port)
            socks.append(sock)
            if wire:
                sock.sendall(wire)
        time.sleep(1.0)
        yield len(wire) * connections
    finally:
        for sock in socks:
            sock.close()


@contextmanager
def flooded(port: int, data: bytes, connections: int) -> Iterator[None]:
    """Connections that have as much of ``data`` under way as the sockets take, from a process of their own."""
    import multiprocessing

    stop = multiprocessing.Event()
    process = multiprocessing.Process(target=_flood, args=(port, data, connections, stop), daemon=True)
    process.start()
    try:
        time.sleep(0.5)
        yield
    finally:
        stop.set()
        process.join(10.0)
        if process.is_alive():
            process.kill()
            process.join()


def _flood(port: int, data: bytes, connections: int, stop: object) -> None:
    import os
    import selectors

    os.nice(10)  # who measures beside it is not to wait for it
    view = memoryview(data)
    with selectors.DefaultSelector() as selector:
        at: dict[socket.socket, int] = {}

        def add() -> None:
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            at[sock] = 0
            selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)

        for _ in range(connections):
            add()
        while not stop.is_set():  # type: ignore[attr-defined]
            for key, events in selector.select(0.1):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                try:
                    if events & selectors.EVENT_READ and not sock.recv(1 << 20):
                        raise ConnectionError
                    if events & selectors.EVENT_WRITE:
                        at[sock] = (at[sock] + sock.send(view[at[sock] :])) % len(data)
                except BlockingIOError:
                    pass
                except OSError:
                    selector.unregister(sock)
                    del at[sock]
                    sock.close()
                    add()


def probe(port: int, path: str, seconds: float, pause_s: float = 0.005) -> list[float]:
    """Seconds that each of many small requests took, on one kept connection, one after another."""
    data = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    took: list[float] = []
    end = time.monotonic() + seconds
    sock = connect(port)
    while time.monotonic() < end:
        began = time.perf_counter()
        try:
            sock.sendall(data)
            if not sock.recv(65_536):
                raise ConnectionError
        except OSError:
            sock.close()
            sock = connect(port)
            continue
        took.append(time.perf_counter() - began)
        time.sleep(pause_s)
    sock.close()
    return took
