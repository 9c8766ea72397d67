"""Plays a fault: takes a request's answer from the engine and breaks it, on purpose and exactly.

A player is the sink of one faulted request. The engine's callbacks only queue what they produce; one task writes it out,
flushing after every piece, so that a reset or a close happens after exactly the bytes that the fault names. Must never:
touch a request without faults (the connection serves those itself).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, NoReturn, Protocol, cast

import msgspec

from fastgw.sim.answers import PAD_LINE_BYTES, padded
from fastgw.sim.config import SimConfig
from fastgw.sim.engine import Answer, Fields, Job, Shape
from fastgw.sim.faults import Faults
from fastgw.sim.received import Received
from fastgw.sim.routes import Routes
from fastgw.sim.shapes import JSON, Overrides
from fastgw.sim.work import CannedShape

# Events queued before the job is paused.
_AHEAD: Final = 64
GARBAGE: Final = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is not HTTP \x00\xff\r\n\r\n"
_EARLY_HINTS: Final = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n"
_SWITCHING: Final = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: sim\r\nconnection: Upgrade\r\n\r\n"
# Faults that only exist where a body has chunks: an answer that would have a length is chunked for them.
_CHUNK_FAULTS: Final = ("truncate-chunk", "half-chunk", "bad-chunk", "no-terminator", "one-byte-chunks", "split")
_AT_EVENT: Final = (
    "truncate-chunk", "half-chunk", "half-event", "bad-chunk", "error-event",
    "reset-after-events", "close-after-events", "stall-after-events", "end-after-events",
)  # fmt: skip


class EndedError(Exception):
    """The fault has had its way with the connection; nothing more is to be written."""


class Setup(Protocol):
    """What a player needs of the simulated engine."""

    config: SimConfig
    routes: Routes


class Line(Protocol):
    """What a player needs of its connection."""

    @property
    def transport(self) -> asyncio.Transport: ...

    request: Received
    number: int
    on_connection: int

    @property
    def simulator(self) -> Setup: ...
    def work(self, shape: Shape, sink: Player, lead_s: float | None, itl_s: float | None) -> Job | None: ...
    def will_close(self) -> None: ...
    def complete(self, silent_close: bool = False) -> None: ...
    def fail(self) -> None: ...
    def reset(self) -> None: ...
    async def flushed(self) -> None: ...


class H1Line(Line, Protocol):
    """And what it needs to write a head of HTTP/1.1: on HTTP/2 there is another ``_head``."""

    def head_bytes(self, status: int, content_type: bytes, framing: bytes, extra: Fields) -> bytes: ...


class Player:
    """One faulted request on its connection."""

    __slots__ = (
        "_bytes_left", "_conn", "_fault_at", "_faults", "_framing", "_held", "_job", "_queue", "_started", "_task", "_total",
        "_wake", "_written_events",
    )  # fmt: skip

    def __init__(self, connection: Line, faults: Faults) -> None:
        self._conn = connection
        self._faults = faults
        self._queue: deque[tuple[str, bytes, Answer | None]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._job: Job | None = None
        self._framing = "chunked"
        self._total = 0
        self._held = b""
        self._started = False
        self._written_events = 0
        limits = [faults.count(name, -1) for name in ("reset-after", "close-after", "stall-after") if name in faults]
        self._bytes_left = min(limits) if limits else -1
        self._fault_at = next((name for name in _AT_EVENT if name in faults), "")

    def begin(self) -> None:
        """The request may be answered now."""
        self._conn.transport.set_write_buffer_limits(0)
        name = f"sim-fault-{self._conn.number}.{self._conn.on_connection}"
        self._task = asyncio.get_running_loop().create_task(self._run(), name=name)

    def cancel(self) -> None:
        """The client has left."""
        if self._task is not None:
            self._task.cancel()

    # The engine's sink: queue only.

    def answer(self, answer: Answer) -> None:
        self._put("answer", b"", answer)

    def start(self, content_type: bytes) -> None:
        self._put("start", content_type)

    def event(self, data: bytes) -> None:
        self._put("event", data)
        if len(self._queue) >= _AHEAD and self._job is not None:
            self._job.pause()

    def end(self) -> None:
        self._put("end", b"")

    def _put(self, what: str, data: bytes, answer: Answer | None = None) -> None:
        self._queue.append((what, data, answer))
        self._wake.set()

    # The task.

    async def _run(self) -> None:
        try:
            await self._before_head()
            self._produce()
            while True:
                while not self._queue:
                    self._wake.clear()
                    await self._wake.wait()
                what, data, answer = self._queue.popleft()
                if self._job is not None and len(self._queue) < _AHEAD // 2:
                    self._job.resume()
                if what == "answer":
                    assert answer is not None
                    await self._whole(answer)
                    return
                if what == "start":
                    await self._head(200, data, stream=True)
                elif what == "event":
                    await self._event(data)
                else:
                    await self._finish()
                    return
        except EndedError:
            pass
        except ConnectionError:
            pass  # the peer went while the fault was playing; connection_lost settles the rest

    async def _before_head(self) -> None:
        faults = self._faults
        if "close" in faults:
            await self._close()
        if "reset" in faults:
            await self._reset()
        if "stall-before" in faults or "no-read" in faults:
            await self._stall()
        if "garbage" in faults:
            await self._write(GARBAGE)
            await self._close()
        if "raw" in faults:
            await self._write(faults.raw("raw"))
            await self._close()
        if "unsolicited-101" in faults:
            await self._write(_SWITCHING)
            await self._stall()
        for _ in range(faults.count("1xx")):
            await self._write(_EARLY_HINTS)

    def _produce(self) -> None:
        """Have the answer made, by the fault or by the engine."""
        faults, conn = self._faults, self._conn
        if "status" in faults:
            status = faults.count("status")
            error = {
                "message": f"The simulator answers {status} as asked.",
                "type": "SimulatedError",
                "param": None,
                "code": status,
            }
            extra: Fields = ((b"retry-after", faults.raw("retry-after")),) if "retry-after" in faults else ()
            self.answer(Answer(status, JSON, msgspec.json.encode({"error": error}), extra))
            return
        if "redirect" in faults:
            self.answer(Answer(307, b"text/plain", b"", ((b"location", faults.raw("redirect")),)))
            return
        overrides = Overrides(tokens=faults.count("tokens"), pad_bytes=faults.count("burst"))
        prepared = conn.simulator.routes.prepare(conn.request, overrides)
        if isinstance(prepared, Answer):
            self.answer(prepared)
            return
        if prepared.stream and any(name in faults for name in ("sse-content-length", "wrong-length", "short-length")):
            prepared = CannedShape(prepared)
            self._total = prepared.total_bytes
            self._framing = "length"
        ttft_ms, itl_ms = faults.real("ttft-ms"), faults.real("itl-ms")
        self._job = conn.work(
            prepared, self, None if ttft_ms is None else ttft_ms / 1e3, None if itl_ms is None else itl_ms / 1e3
        )

    async def _whole(self, answer: Answer) -> None:
        body = answer.body if self._conn.request.method != "HEAD" else b""
        self._framing = "chunked" if any(name in self._faults for name in _CHUNK_FAULTS) else "length"
        self._total = len(answer.body)
        await self._head(answer.status, answer.content_type, answer.headers)
        if body:
            await self._event(body, whole=True)
        await self._finish()

    async def _head(self, status: int, content_type: bytes, extra: Fields = (), stream: bool = False) -> None:
        faults, conn = self._faults, self._conn
        if "http10" in faults or (conn.request.head.version == "1.0" and self._framing == "chunked"):
            conn.will_close()
            self._framing = "close"
        length = max(0, self._total + faults.count("wrong-length") - faults.count("short-length"))
        framing = {
            "chunked": b"transfer-encoding: chunked\r\n",
            "length": b"content-length: %d\r\n" % length,
            "close": b"",
        }[self._framing]
        head = cast(H1Line, conn).head_bytes(status, content_type, framing, extra)
        first, rest = head.split(b"\r\n", 1)
        if "http10" in faults:
            first = first.replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        if "status-line" in faults:
            first = faults.raw("status-line")
        lines = [line + b"\r\n" for line in faults.headers]
        lines += [b"x-sim-%d: %d\r\n" % (n, n) for n in range(faults.count("many-headers"))]
        head = first + b"\r\n" + b"".join(lines) + rest
        head = padded(head, faults.count("head"))
        if "endless-head" in faults:
            await self._write(head[:-2])
            while True:
                await self._write(b"x-sim-endless: %b\r\n" % (b"e" * PAD_LINE_BYTES))
        if "close-in-head" in faults:
            await self._write(head[: faults.count("close-in-head")])
            await self._close()
        slow_ms = faults.real("slow-head")
        if slow_ms is None:
            await self._write(head)
        else:
            for at in range(len(head)):
                await self._write(head[at : at + 1])
                await asyncio.sleep(slow_ms / 1e3)
        if "stall-head" in faults:
            await self._stall()
        if self._bytes_left == 0:
            await self._spent()

    async def _event(self, data: bytes, whole: bool = False) -> None:
        """Write one event, or break it. A whole answer counts as one event, and faults hit it before it is out."""
        faults = self._faults
        if self._fault_at:
            at = self._written_events
            default = faults.count(self._fault_at, 0) if self._fault_at.endswith("-events") else 1
            if at >= (0 if whole else faults.count("after-events", default)):
                await self._break(data)
        self._written_events += 1
        self._conn.request.events += 1
        if "gather" in faults and not whole:
            self._held += data
            if len(self._held) < faults.count("gather"):
                return
            data, self._held = self._held, b""
        await self._body(data)

    async def _break(self, data: bytes) -> NoReturn:
        """The fault that waits for its event meets it: ``data`` is what would have been sent next."""
        if self._held:
            await self._body(self._held)
        half = data[: len(data) // 2]
        match self._fault_at:
            case "truncate-chunk":
                await self._write(b"%x\r\n%b" % (len(data) + 1000, data))
                await self._close()
            case "half-chunk":
                await self._write(b"%x\r\n%b" % (len(data), half))
                await self._close()
            case "bad-chunk":
                await self._write(b"xyz\r\n" + data + b"\r\n")
                await self._stall()
            case "half-event":
                await self._body(half)
                if "clean-end" in self._faults:
                    await self._end_cleanly()
                await self._close()
            case "error-event":
                await self._body(self._error_event())
                await self._end_cleanly()
            case "end-after-events":
                await self._end_cleanly()
            case "reset-after-events":
                await self._reset()
            case "stall-after-events":
                await self._stall()
            case _:
                await self._close()

    def _error_event(self) -> bytes:
        """As vLLM words it: an error object, then [DONE]."""
        config = self._conn.simulator.config
        end = b"\r\n\r\n" if config.sep == "crlf" else b"\n\n"
        error = {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "param": None, "code": 500}
        done = b"data: [DONE]" + end if config.done else b""
        return b"data: " + msgspec.json.encode({"error": error}) + end + done

    async def _body(self, data: bytes) -> None:
        """Body bytes in the answer's framing."""
        if self._framing != "chunked":
            await self._wire(data)
            return
        step = 1 if "one-byte-chunks" in self._faults else self._faults.count("split") or len(data)
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            await self._wire(b"%x\r\n%b\r\n" % (len(piece), piece))

    async def _wire(self, data: bytes) -> None:
        """Bytes of the body on the wire: what the byte-counting faults count."""
        if 0 <= self._bytes_left <= len(data):
            await self._write(data[: self._bytes_left])
            await self._spent()
        if self._bytes_left > 0:
            self._bytes_left -= len(data)
        self._conn.request.body_sent_bytes += len(data)
        await self._write(data)

    async def _spent(self) -> NoReturn:
        if "reset-after" in self._faults:
            await self._reset()
        if "close-after" in self._faults:
            await self._close()
        await self._stall()

    async def _finish(self) -> None:
        """The engine is through."""
        if self._held:
            held, self._held = self._held, b""
            await self._body(held)
        if "no-terminator" in self._faults or "wrong-length" in self._faults:
            await self._close()
        if self._framing == "chunked":
            await self._wire(b"0\r\n\r\n")
        self._conn.complete(silent_close="close-after-answer" in self._faults)

    async def _end_cleanly(self) -> NoReturn:
        if self._framing == "chunked":
            await self._write(b"0\r\n\r\n")
        self._conn.will_close()
        self._conn.complete()
        raise EndedError

    async def _write(self, data: bytes) -> None:
        if self._conn.transport.is_closing():
            raise EndedError
        self._conn.transport.write(data)
        await self._conn.flushed()

    async def _close(self) -> NoReturn:
        self._conn.fail()
        self._conn.transport.close()
        raise EndedError

    async def _reset(self) -> NoReturn:
        self._conn.fail()
        self._conn.reset()
        raise EndedError

    async def _stall(self) -> NoReturn:
        """Silence until the client leaves; connection_lost cancels this task."""
        await asyncio.get_running_loop().create_future()
        raise EndedError
