"""A small asynchronous HTTP/1.1 GET for probes and model lists: one connection, one answer, one deadline.

Not for traffic: it opens a connection for each call and buffers the answer, bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from errno import EINPROGRESS
from typing import TYPE_CHECKING, Final

from fastgw.accel.chunks import FramingError
from fastgw.errors import GatewayError
from fastgw.net.channel import Channel
from fastgw.net.shortage import LACKING
from fastgw.net.wire import Address
from fastgw.protocol.body import source_of
from fastgw.protocol.http1.client import ResponseReader
from fastgw.protocol.http1.writer import single_get, single_post

if TYPE_CHECKING:
    from fastgw.net.certificates import Believed


TLS_ALERT: Final = b"\x15\x03"  # how one begins (RFC 8446 §5.1), which HTTP never does
Otherwise = Callable[[Channel], Awaitable[tuple[int, bytes] | None]]
"""What asks over a new connection in another way, and has the answer; None = it is to be asked as ever."""


class FetchError(Exception):
    """The engine could not be asked; the text says why and is for the log.

    ``lacking``: the error number where that was this process's own want of a descriptor or of memory; else 0. ``wrong``: who
    is there is not who was meant, or speaks something else.
    """

    def __init__(self, why: str, lacking: int = 0, wrong: bool = False) -> None:
        super().__init__(why)
        self.lacking = lacking
        self.wrong = wrong


class TooSlow(FetchError):
    """It has not answered in time."""


class TooLarge(FetchError):
    """It has answered, with more than was to be read."""


async def fetch(
    addresses: tuple[Address, ...],
    target: bytes,
    fields: bytes,
    timeout_s: float,
    max_bytes: int,
    secure: Believed | None = None,
    otherwise: Otherwise | None = None,
    body: bytes = b"",
) -> tuple[int, bytes]:
    """GET ``target`` from the first of ``addresses`` that accepts, or POST ``body`` to it, which is JSON; returns (status,
    body). ``fields`` are lines, Host too; ``secure`` says how TLS is spoken there, and ``otherwise`` may ask in what its
    handshake has agreed on.

    Raises :class:`FetchError` when nothing answers whole within ``timeout_s`` or the body is over ``max_bytes``.
    """
    last = "no address"
    wrong = False
    request = single_post(target, fields, body) if body else single_get(target, fields)
    try:
        async with asyncio.timeout(timeout_s):
            for family, address in addresses:
                try:
                    return await _ask(family, address, request, max_bytes, secure, otherwise)
                except TooLarge:
                    raise
                except (OSError, FetchError) as error:
                    last = why(error, secure)
                    wrong = is_wrong(error)
                    if isinstance(error, OSError) and error.errno in LACKING:
                        raise FetchError(last, error.errno) from error
                except GatewayError as error:
                    last, wrong = error.detail or error.kind.name, False
                except FramingError as error:
                    last, wrong = str(error), False
    except TimeoutError:
        raise TooSlow(f"no answer within {timeout_s:g} s") from None
    raise FetchError(last, wrong=wrong)


def is_wrong(error: OSError | FetchError) -> bool:
    """As :attr:`FetchError.wrong`."""
    return error.wrong if isinstance(error, FetchError) else hasattr(error, "reason")  # (one of TLS)


def why(error: Exception, secure: Believed | None) -> str:
    """What is to be told of it."""
    if secure is not None and isinstance(error, OSError):
        from fastgw.net.tls_words import told

        return told(error)
    return str(error) or type(error).__name__


async def _ask(
    family: int,
    address: object,
    request: bytes,
    max_bytes: int,
    secure: Believed | None,
    otherwise: Otherwise | None,
) -> tuple[int, bytes]:
    async with connected(family, address, secure) as channel:
        if otherwise is not None:
            found = await otherwise(channel)
            if found is not None:
                return found
        await channel.send(request)
        reader = ResponseReader()
        head = None
        while head is None or head.status < 200:
            data = reader.rest if head is not None else b""
            data = data or await channel.receive()
            if not data:
                raise FetchError("closed before an answer")
            if secure is None and data[:2] == TLS_ALERT:
                raise FetchError("what answers speaks TLS (https:// is for that)", wrong=True)
            head = reader.feed(data)
        body = source_of(head, b"GET")
        # One buffer: a list of two-byte pieces would hold twenty times what the engine sent.
        answer = bytearray()
        data = reader.rest
        while True:
            if data or body.done:
                answer += body.feed(data)
                if len(answer) > max_bytes:
                    raise TooLarge("answer too large")
            if body.done:
                break
            data = await channel.receive()
            if not data:
                if body.eof("fin"):
                    break
                raise FetchError("closed in the middle of an answer")
        return head.status, bytes(answer)


@contextlib.asynccontextmanager
async def connected(family: int, address: object, secure: Believed | None = None) -> AsyncIterator[Channel]:
    """A connection of its own, shaken hands over where it is ``secure``. Raises OSError."""
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        await _connect(loop, sock, address)
        if secure is None:
            yield Channel(loop, sock)
        else:
            from fastgw.net.tls_channel import secured

            yield await secured(loop, sock, secure)


async def _connect(loop: asyncio.AbstractEventLoop, sock: socket.socket, address: object) -> None:
    """Raises OSError when nobody accepts. (The loop's own ``sock_connect`` looks numeric addresses up once more, in threads
    that it starts for that and with a table of Unicode: a millisecond of the first request, half a megabyte for ever.)"""
    code = sock.connect_ex(address)  # type: ignore[arg-type]
    if code != EINPROGRESS:
        if code:
            raise OSError(code, os.strerror(code))
        return
    answered: asyncio.Future[None] = loop.create_future()
    loop.add_writer(sock, _told, answered)
    try:
        await answered
    finally:
        loop.remove_writer(sock)
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, f"Connect call failed {address}")


def _told(answered: asyncio.Future[None]) -> None:
    if not answered.done():
        answered.set_result(None)
