"""A kernel that has no room to watch one descriptor more, for as long as a test says.

The limit itself (``fs.epoll.max_user_watches``) is the machine's, so a thread gets a filter for its own system calls: an
``epoll_ctl`` that would register something fails there with the same error. A test is told in phases, each a coroutine on the
one loop: first all is well, then nothing can be watched, then all is well again. Only x86-64 is known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, Final

import uvloop

_EPOLL_CTL: Final = 233
_ADD: Final = 1  # EPOLL_CTL_ADD
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # of classic BPF
_NUMBER, _SECOND, _THIRD = 0, 24, 32  # where the call's number and its arguments lie
_ALLOWED, _ERRNO = 0x7FFF0000, 0x00050000
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2  # of prctl


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _refuse(only: int) -> None:
    """From now on, in this thread and what it starts. There is no way back."""
    third = ((_LOAD, 0, 0, _THIRD), (_EQUAL, 0, 1, only)) if only >= 0 else ()
    steps = (
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 3 + len(third), _EPOLL_CTL),
        (_LOAD, 0, 0, _SECOND),
        (_EQUAL, 0, 1 + len(third), _ADD),
        *third,
        (_RETURN, 0, 0, _ERRNO | errno.ENOSPC),
        (_RETURN, 0, 0, _ALLOWED),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = _Program(len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SECCOMP, _FILTER, ctypes.byref(program))):
        if libc.prctl(*call):
            raise OSError(ctypes.get_errno(), "prctl")


class Phases:
    """One loop, on which the phases of a test run one after the other."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.unhandled: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.unhandled.append(context))

    def well(self, phase: Coroutine[Any, Any, Any]) -> Any:
        """Run ``phase`` as ever."""
        return self._on_a_thread(phase, lambda: None)

    def full(self, phase: Coroutine[Any, Any, Any], only: int = -1) -> Any:
        """Run ``phase`` while nothing can be watched that is not watched already; or ``only`` this one descriptor cannot."""
        return self._on_a_thread(phase, lambda: _refuse(only))

    def _on_a_thread(self, phase: Coroutine[Any, Any, Any], first: Any) -> Any:
        result: Future[Any] = Future()

        def run() -> None:
            try:
                first()
                asyncio.set_event_loop(self.loop)
                result.set_result(self.loop.run_until_complete(phase))
            except BaseException as error:
                phase.close()
                result.set_exception(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return result.result()


@contextlib.contextmanager
def phases() -> Iterator[Phases]:
    place = Phases()
    try:
        yield place
    finally:
        place.loop.run_until_complete(place.loop.shutdown_default_executor())
        place.loop.close()
    assert not place.unhandled


async def exchanged(port: int, data: bytes, within_s: float = 2.0) -> bytes | str:
    """What a client gets that says ``data`` and waits for the end; nothing of it is watched by a loop."""

    def talk() -> bytes | str:
        got = b""
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=within_s) as sock:
                sock.sendall(data)
                while more := sock.recv(65536):
                    got += more
        except ConnectionError:
            return "reset"
        return got

    return await asyncio.to_thread(talk)


@contextlib.contextmanager
def engine(answer: bytes) -> Iterator[str]:
    """An engine in threads of its own: each connection gets ``answer`` for what it says first, and its end."""

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                conn, _ = listening.accept()
                with conn:
                    conn.settimeout(2.0)
                    if conn.recv(65536):
                        conn.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
