"""Clients of a gateway that is upgraded meanwhile: streams that are open all the time, and one new connection after another.

Owns: that each judges strictly what it got. A stream is whole that has said ``[DONE]`` and has ended as its protocol says; an
answer is one that has status 200 and its whole body. Whatever else comes of a request is a failure, with what was seen.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

import h2.config
import h2.connection
import h2.events

END: Final = b"data: [DONE]\n\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
FRAME_HEAD: Final = 9


@dataclass(frozen=True)
class Where:
    """Where a client connects: a Unix socket, or a port of this machine by TLS (None: without)."""

    port: int = 0
    unix: str = ""
    tls: ssl.SSLContext | None = None

    async def connect(self, protocol: Any) -> Any:
        loop = asyncio.get_running_loop()
        if self.unix:
            return (await loop.create_unix_connection(protocol, self.unix))[1]
        name = {"server_hostname": "localhost"} if self.tls is not None else {}
        return (await loop.create_connection(protocol, "127.0.0.1", self.port, ssl=self.tls, **name))[1]


def body(tokens: int, stream: bool, model: str = "sim") -> bytes:
    asked = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens, "stream": stream}
    return json.dumps(asked).encode()


def request(key: str, tokens: int, stream: bool, close: bool = False) -> bytes:
    data = body(tokens, stream)
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json",
             f"Content-Length: {len(data)}", f"Authorization: Bearer {key}"]  # fmt: skip
    return "\r\n".join([*lines, *(["Connection: close"] if close else []), "", ""]).encode() + data


class Http1(asyncio.Protocol):
    """One request over a connection of its own, or the next one over one that is kept."""

    def __init__(self, data: bytes) -> None:
        self._request = data
        self.received = bytearray()
        self.begun = asyncio.get_running_loop().create_future()
        self.ended = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.begun.done() and (b"data: " in self.received or self.whole()):
            self.begun.set_result(None)
        if self.whole() and not self.ended.done():
            self.ended.set_result(None)

    def whole(self) -> bool:
        head, blank, rest = self.received.partition(b"\r\n\r\n")
        if not blank or not head.startswith(b"HTTP/1.1 200"):
            return False
        if b"transfer-encoding: chunked" in head.lower():
            return rest.endswith(LAST_CHUNK)
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return len(rest) == int(line[15:])
        return False

    def says_it_ends(self) -> bool:
        return b"\r\nconnection: close" in self.received.partition(b"\r\n\r\n")[0].lower()

    def connection_lost(self, exc: Exception | None) -> None:
        for one in (self.begun, self.ended):
            if not one.done():
                one.set_result(None)

    def again(self, data: bytes) -> None:
        """The next request over it."""
        self.received.clear()
        self.begun = asyncio.get_running_loop().create_future()
        self.ended = asyncio.get_running_loop().create_future()
        self.transport.write(data)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def problem(self, stream: bool) -> str:
        """What is wrong with what came; "" = nothing."""
        if not self.whole():
            return f"not whole: {bytes(self.received[-200:])!r}"
        if stream and END not in self.received:
            return f"no end was said: {bytes(self.received[-200:])!r}"
        return ""


class Http2(asyncio.Protocol):
    """A connection with several streams."""

    def __init__(self, key: str, streams: int, tokens: int) -> None:
        self._conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="ascii"))
        self._key, self._tokens = key, tokens
        self._left = streams
        self._read = bytearray()
        self._transport: Any = None
        self.bodies: dict[int, bytearray] = {}
        self.whole: set[int] = set()
        self.problems: list[str] = []
        self.goaways: list[int] = []
        self.begun = asyncio.get_running_loop().create_future()
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._conn.initiate_connection()
        self._conn.increment_flow_control_window(2**30)
        for _ in range(self._left):
            self.ask(True, self._tokens)

    def ask(self, stream: bool, tokens: int) -> int:
        number = int(self._conn.get_next_available_stream_id())
        head = [(":method", "POST"), (":scheme", "https"), (":path", "/v1/chat/completions"), (":authority", "localhost"),
                ("content-type", "application/json"), ("authorization", f"Bearer {self._key}")]  # fmt: skip
        self.bodies[number] = bytearray()
        self._conn.send_headers(number, head)
        self._conn.send_data(number, body(tokens, stream), end_stream=True)
        self._put()
        return number

    def _put(self) -> None:
        self._transport.write(self._conn.data_to_send())

    def _events(self, data: bytes) -> Iterator[Any]:
        """Frame by frame: to the library a GOAWAY is the end of what is under way too (RFC 9113 §6.8 says that it is not)."""
        self._read += data
        while len(self._read) >= FRAME_HEAD and len(self._read) >= (size := FRAME_HEAD + int.from_bytes(self._read[:3])):
            yield from self._conn.receive_data(bytes(self._read[:size]))
            del self._read[:size]
            if self._conn.state_machine.state is h2.connection.ConnectionState.CLOSED:
                self._conn.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN

    def data_received(self, data: bytes) -> None:
        for event in self._events(data):
            if isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] += event.data
                self._conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.ResponseReceived):
                status = dict(event.headers or ())[":status"]
                if status != "200":
                    self.problems.append(f"status {status}")
            elif isinstance(event, h2.events.StreamEnded):
                self.whole.add(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self.problems.append(f"stream {event.stream_id} was reset: {event.error_code}")
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.goaways.append(event.last_stream_id or 0)
        self._put()
        if not self.begun.done() and all(b"data: " in one for one in self.bodies.values()):
            self.begun.set_result(None)
        if not self.ended.done() and self.whole == set(self.bodies):
            self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        for one in (self.begun, self.ended):
            if not one.done():
                one.set_result(None)

    def close(self) -> None:
        self._transport.close()

    def broken(self) -> list[str]:
        """What is wrong with what came."""
        missing = [f"stream {one} did not end" for one in self.bodies.keys() - self.whole]
        streams = [one for one in self.whole if b"data: " in self.bodies[one]]
        unsaid = [f"stream {one} said no end" for one in streams if END not in self.bodies[one]]
        return [*self.problems, *missing, *unsaid]


@dataclass
class Seen:
    """What became of new connections."""

    asked: int = 0
    well: int = 0
    failed: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    longest_gap_s: float = 0.0
    _last_at: float = 0.0

    def answered(self, took_s: float) -> None:
        now = monotonic()
        self.well += 1
        self.slowest_s = max(self.slowest_s, took_s)
        if self._last_at:
            self.longest_gap_s = max(self.longest_gap_s, now - self._last_at)
        self._last_at = now

    def missed(self, why: str) -> None:
        self.failed.append(why)


async def newcomer(where: Where, key: str, seen: Seen, within_s: float = 30.0) -> None:
    """One who connects, asks once, and leaves."""
    begin = monotonic()
    seen.asked += 1
    one: Http1 | None = None
    try:
        async with asyncio.timeout(within_s):
            one = await where.connect(lambda: Http1(request(key, 1, False)))
            await one.ended
        why = one.problem(False)
        if why:
            seen.missed(why)
        else:
            seen.answered(monotonic() - begin)
    except (OSError, TimeoutError) as error:
        seen.missed(f"{type(error).__name__}: {error}")
    finally:
        if one is not None:
            one.close()


async def newcomers(places: list[Where], key: str, a_second: float, seen: Seen, until: asyncio.Event) -> None:
    """So many a second, at the one place and the other in turns, until that is set; returns when all were answered."""
    running: set[asyncio.Task[None]] = set()
    begin, count = monotonic(), 0
    while not until.is_set():
        due = int((monotonic() - begin) * a_second)
        while count < due:
            task = asyncio.ensure_future(newcomer(places[count % len(places)], key, seen))
            running.add(task)
            task.add_done_callback(running.discard)
            count += 1
        await asyncio.sleep(0.002)
    if running:
        await asyncio.wait(running)
