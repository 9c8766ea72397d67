"""The raw client against scripted bytes: every way an answer can end, and what it refuses to read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.client import BadResponse, NoResponse, RawClient, RawResponse, chat, chunk, parse_head, request

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await handler(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def answered(*pieces: bytes, reset: bool = False, stay_s: float = 0.0, head_only: bool = False) -> RawResponse:
    """What the client makes of an engine that sends ``pieces`` and then closes, resets, or stays silent."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.002)
        await asyncio.sleep(stay_s)
        if reset:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with server(handler) as port, RawClient.connect("127.0.0.1", port) as client:
        await client.send(request())
        return await client.read_response(timeout=0.3, head_only=head_only)


async def test_content_length() -> None:
    response = await answered(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A:  b c \r\n\r\nhel", b"lo")
    assert (response.status, response.reason, response.body) == (200, "OK", b"hello")
    assert response.headers == [("Content-Length", "5"), ("X-A", "b c")]
    assert (response.complete, response.how_ended) == (True, "length")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_chunked_at_any_split(size: int) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=1\r\nhello\r\n1\r\n!\r\n0\r\nX-T: 1\r\n\r\n"
    response = await answered(*(raw[at : at + size] for at in range(0, len(raw), size)))
    assert response.chunks == [b"hello", b"!"]
    assert response.body == b"hello!"
    assert response.trailers == [("X-T", "1")]
    assert response.raw_body == raw.partition(b"\r\n\r\n")[2]
    assert (response.complete, response.how_ended) == (True, "terminal-chunk")


@pytest.mark.parametrize("body", [b"", b"5\r\nhel", b"5\r\nhello\r\n", b"5\r\nhello\r\n0\r\n"])
async def test_a_chunked_answer_without_its_end_is_not_complete(body: bytes) -> None:
    response = await answered(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert (response.complete, response.how_ended) == (False, "eof")
    assert b"hello".startswith(response.body)


async def test_a_reset_is_not_an_end() -> None:
    response = await answered(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", reset=True, stay_s=0.02)
    assert (response.body, response.complete, response.how_ended) == (b"abc", False, "reset")


async def test_silence_is_a_timeout() -> None:
    response = await answered(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", stay_s=0.4)
    assert (response.body, response.complete, response.how_ended) == (b"abc", False, "timeout")


async def test_close_delimited() -> None:
    response = await answered(b"HTTP/1.0 200 OK\r\n\r\nabc")
    assert (response.version, response.body, response.complete, response.how_ended) == ("HTTP/1.0", b"abc", True, "eof")


async def test_interim_answers_and_head_only() -> None:
    response = await answered(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n",
        head_only=True,
    )
    assert [one.status for one in response.interim] == [100, 103]
    assert (response.status, response.complete, response.body) == (200, True, b"")


@pytest.mark.parametrize(("sent", "how"), [(b"", "eof"), (b"HTTP/1.1 200 OK\r\nCont", "eof")])
async def test_no_answer_at_all(sent: bytes, how: str) -> None:
    with pytest.raises(NoResponse) as caught:
        await answered(sent)
    assert (caught.value.how, caught.value.received) == (how, sent)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 20 OK",
        b"HTTP/2.0 200 OK",
        b"HTTP/1.1 200",
        b"HTTP/1.1 999 Odd",
        b"HTTP/1.1 200 OK\r\nA : b",
        b"HTTP/1.1 200 OK\r\n folded",
        b"HTTP/1.1 200 OK\r\nA: b\nC: d",
        b"HTTP/1.1 200 OK\r\nA: b\rc",
        b"HTTP/1.1 200 OK\r\nA: \x00",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0",
    ],
)
def test_a_malformed_head_is_refused(head: bytes) -> None:
    with pytest.raises(BadResponse):
        parse_head(head + b"\r\n\r\n")


@pytest.mark.parametrize("body", [b"5\nhi", b"x\r\n", b"5\r\nhelloX", b"-1\r\n", b" 1\r\na\r\n", b"12345678901234567\r\n"])
async def test_malformed_chunks_are_refused(body: bytes) -> None:
    with pytest.raises(BadResponse):
        await answered(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body, stay_s=0.05)


async def test_a_stream_is_read_event_by_event_and_answers_follow_each_other() -> None:
    gate = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"data: 1\n\n")[:-5])
        await gate.wait()
        writer.write(chunk(b"data: 2\n\ndata: [DONE]\n\ndata: half") + b"HTTP/1.1 204 Next\r\n\r\n")

    async with server(handler) as port, RawClient.connect(f"http://127.0.0.1:{port}") as client:
        await client.send(chat(stream=True))
        response = await client.read_head()
        await client.read_until(response, b"1\n\n")
        assert (response.events(), response.how_ended) == (["1"], "open")
        gate.set()
        await client.read_body(response)
        assert (response.events(), response.complete) == (["1", "2", "[DONE]"], True)
        assert (await client.read_response()).reason == "Next"
        assert await client.read_until_closed() == (b"", "fin")


async def test_how_a_connection_ends_is_told_apart(tmp_path: Path) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(100))
        try:
            seen.append(await reader.read(100))
        except ConnectionResetError:
            seen.append(b"RST")

    seen: list[bytes] = []
    async with server(handler) as port:
        client = await RawClient.connect("127.0.0.1", port, source="127.0.0.2", rcvbuf=4096)
        assert client.local_address[0] == "127.0.0.2"
        assert await client.read_until_closed(0.02) == (b"", "timeout")
        assert await client.send_slowly(b"abc", [3]) == 3
        client.shutdown_write()
        assert await client.read_until_closed() == (b"", "fin")
        client.close()
        client = await RawClient.connect("127.0.0.1", port)
        await client.send(b"x")
        await asyncio.sleep(0.02)
        client.reset()
        await asyncio.sleep(0.02)
    assert seen == [b"abc", b"", b"x", b"RST"]

    path = str(tmp_path / "s")
    listening = await asyncio.start_unix_server(lambda r, w: w.close(), path)
    async with listening, RawClient.connect(path) as client:
        assert await client.read_until_closed() == (b"", "fin")


def test_the_request_builder_frames_what_it_says() -> None:
    head, _, body = chat("me", True, key="k", max_tokens=3).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\n")
    assert b"Content-Length: %d" % len(body) in head
    assert b'"stream": true' in body
    assert request("POST", "/x", body=b"hello", chunked=[2], host=None) == (
        b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n2\r\nll\r\n1\r\no\r\n0\r\n\r\n"
    )
