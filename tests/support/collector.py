"""A collector of traces for tests: takes OTLP over HTTP or gRPC, and keeps the spans that came as they were meant."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


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
    of: dict[str, Any]

    @property
    def service(self) -> Any:
        return self.of["service.name"]


@dataclass
class Collector:
    """``status``: what it answers; 0 = nothing, for as long as it is asked."""

    status: int = 200
    port: int = 0
    spans: list[Span] = field(default_factory=list)
    calls: int = 0
    fields: dict[str, str] = field(default_factory=dict)  # of the last call
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
                line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                assert line.startswith("POST /v1/traces ")
                self.fields = {one.partition(": ")[0].lower(): one.partition(": ")[2] for one in lines}
                body = await reader.readexactly(int(self.fields["content-length"]))
                if self.fields.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                self.calls += 1
                if not self.status:
                    await reader.read()
                    return
                if self.status == 200:
                    self.keep(ExportTraceServiceRequest.FromString(body))
                said = ExportTraceServiceResponse().SerializeToString()
                writer.write(b"HTTP/1.1 %d X\r\ncontent-type: application/x-protobuf\r\n" % self.status)
                writer.write(b"content-length: %d\r\n\r\n%b" % (len(said), said))
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            return
        finally:
            writer.close()

    def keep(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            whose = {one.key: _value(one.value) for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                for one in scope.spans:
                    self.spans.append(
                        Span(
                            one.name, one.trace_id.hex(), one.span_id.hex(), one.parent_span_id.hex(), one.kind,
                            one.trace_state, one.start_time_unix_nano, one.end_time_unix_nano, one.status.code == 2,
                            one.status.message, {two.key: _value(two.value) for two in one.attributes},
                            whose,
                        )
                    )  # fmt: skip
        self.came.set()


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


CODES = {400: grpc.StatusCode.INVALID_ARGUMENT, 503: grpc.StatusCode.UNAVAILABLE}


class _Service(TraceServiceServicer):  # type: ignore[misc]
    """The same over gRPC, whose threads are its own."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._loop = asyncio.get_running_loop()
        self.over = Event()

    def Export(self, request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        collector = self._collector
        collector.calls += 1
        if not collector.status:
            self.over.wait()
        if collector.status != 200:
            context.abort(CODES.get(collector.status, grpc.StatusCode.UNKNOWN), "no")
        collector.fields = {key: str(value) for key, value in context.invocation_metadata()}
        self._loop.call_soon_threadsafe(collector.keep, request)
        return ExportTraceServiceResponse()


@asynccontextmanager
async def collecting(status: int = 200, protocol: str = "http/protobuf") -> AsyncIterator[Collector]:
    """A collector on a free port of 127.0.0.1."""
    collector = Collector(status)
    if protocol == "grpc":
        service = _Service(collector)
        rpc = grpc.server(ThreadPoolExecutor(4))
        add_TraceServiceServicer_to_server(service, rpc)
        collector.port = rpc.add_insecure_port("127.0.0.1:0")
        rpc.start()
        try:
            yield collector
        finally:
            service.over.set()
            rpc.stop(None).wait()
        return
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
