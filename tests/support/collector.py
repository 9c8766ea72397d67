"""A collector of traces for tests: takes OTLP over HTTP, and keeps the spans that came as they were meant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse


@dataclass
class Span:
    """One span; ids in hexadecimal, ``kind`` as the protocol numbers it (2 = server, 3 = client)."""

    name: str
    trace_id: str
    span_id: str
    parent: str
    kind: int
    state: str
    start: int
    end: int
    failed: bool
    why: str
    about: dict[str, Any]
    service: str


@dataclass
class Collector:
    """``status``: what it answers; 0 = nothing, for as long as it is asked."""

    status: int = 200
    port: int = 0
    spans: list[Span] = field(default_factory=list)
    calls: int = 0
    came: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[Any] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def server(self) -> Span:
        """The only server span."""
        (found,) = [span for span in self.spans if span.kind == 2]
        return found

    def below(self, parent: Span) -> list[Span]:
        return [span for span in self.spans if span.parent == parent.span_id]

    async def until(self, count: int = 1) -> None:
        """So many server spans have come."""
        async with asyncio.timeout(5):
            while sum(span.kind == 2 for span in self.spans) < count:
                self.came.clear()
                await self.came.wait()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.current_task())
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                assert head.startswith(b"post /v1/traces ")
                length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
                self.calls += 1
                if not self.status:
                    await reader.read()
                    return
                if self.status == 200:
                    self._keep(body)
                said = ExportTraceServiceResponse().SerializeToString()
                writer.write(b"HTTP/1.1 %d X\r\ncontent-type: application/x-protobuf\r\n" % self.status)
                writer.write(b"content-length: %d\r\n\r\n%b" % (len(said), said))
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            return
        finally:
            writer.close()

    def _keep(self, body: bytes) -> None:
        request = ExportTraceServiceRequest()
        request.ParseFromString(body)
        for resource in request.resource_spans:
            whose = {one.key: _value(one.value) for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                for one in scope.spans:
                    self.spans.append(
                        Span(
                            one.name, one.trace_id.hex(), one.span_id.hex(), one.parent_span_id.hex(), one.kind,
                            one.trace_state, one.start_time_unix_nano, one.end_time_unix_nano, one.status.code == 2,
                            one.status.message, {two.key: _value(two.value) for two in one.attributes},
                            whose["service.name"],
                        )
                    )  # fmt: skip
        self.came.set()


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


@asynccontextmanager
async def collecting(status: int = 200) -> AsyncIterator[Collector]:
    """A collector on a free port of 127.0.0.1."""
    collector = Collector(status)
    server = await asyncio.start_server(collector.take, "127.0.0.1", 0)
    collector.port = server.sockets[0].getsockname()[1]
    try:
        yield collector
    finally:
        server.close()
        for task in collector.tasks:
            task.cancel()
        await asyncio.gather(*collector.tasks, return_exceptions=True)
        await server.wait_closed()
