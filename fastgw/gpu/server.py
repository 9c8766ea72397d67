"""The exporter's listener: ``/metrics`` and ``/health``.

Owns: its sockets, and the bounds on what any caller may hold: how many connections there are (whoever comes when all are taken
gets the place of the one that has been without a request for longest, or has been answered for longest), how long a head and
an answer may take. Must never: take
a body, answer under a name that a web page could have brought (``Host``), or wait for a driver that hangs.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import re
from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec
from aiohttp import web

from fastgw.errors import KINDS, ErrorKind, body, described
from fastgw.gpu.watch import Watch
from fastgw.net.listener import BindError, bind
from fastgw.protocol.hosts import HostRule
from fastgw.stats import EventLog

METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"
JSON: Final = "application/json"
MAX_CONNECTIONS: Final = 128
MAX_LINE_BYTES: Final = 8190
MAX_FIELDS: Final = 64
IDLE_S: Final = 15.0
"""For a request's head, and between requests; a scraper comes again on another connection."""
WRITE_S: Final = 20.0
STOP_S: Final = 2.0
BACKLOG: Final = 128
PACKED_BYTES: Final = 4096
"""From here on an answer is packed for who takes that."""

_NEVER: Final = re.compile(r";q=0(?:\.0*)?\Z").search  # RFC 9110 §12.4.2
_PAGE: Final = b"fastgw gpu-exporter: /metrics for Prometheus, /health for who runs it\n"


class _Connection(web.RequestHandler):
    """One connection, counted."""

    __slots__ = ("_exporter", "busy")

    def __init__(self, manager: web.Server, exporter: Exporter, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            manager, loop=loop, keepalive_timeout=IDLE_S, access_log=None,  # type: ignore[arg-type]
            max_line_size=MAX_LINE_BYTES, max_field_size=MAX_LINE_BYTES, max_headers=MAX_FIELDS, lingering_time=0.0,
            auto_decompress=False,
        )  # fmt: skip
        self._exporter = exporter
        self.busy = False  # a request is under way

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # (So that drain() says when an answer was taken. uvloop's is a Transport by its methods only.)
        cast(asyncio.Transport, transport).set_write_buffer_limits(high=1)
        self._exporter.joined(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._exporter.left(self)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        self._exporter.fault(kw.get("exc_info"))

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What could not be read; ``message`` would quote it."""
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionError("nobody is there, or an answer has been begun")
        return _refusal(KINDS["bad_request"])


class _Request(web.BaseRequest):
    """A request whose answer does not name the library that wrote it."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        response.headers.popall("Server", None)


class _Server(web.Server):
    def __init__(self, exporter: Exporter, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(exporter.handle, request_factory=self._request)
        self._exporter = exporter

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, self._exporter, self._loop)

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return _Request(message, payload, protocol, writer, task, self._loop)


def _refusal(kind: ErrorKind) -> web.Response:
    response = web.Response(status=kind.status, body=body(kind), headers={"Content-Type": JSON})
    response.force_close()
    return response


class Exporter:
    """See the head of this file. ``hosts``: further names under which it may be asked."""

    def __init__(self, watch: Watch, log: EventLog, *, host: str, port: int, hosts: Sequence[str] = ()) -> None:
        self._watch = watch
        self._log = log
        self._host = host
        self._port = port
        self._hosts = HostRule(hosts, os.uname().nodename)
        self._connections: dict[_Connection, None] = {}  # the longest without a request first
        self._runner: web.ServerRunner | None = None
        self.url = ""

    async def start(self) -> str:
        """Listen; returns the URL. Raises :class:`fastgw.net.listener.BindError`, one line that names the address."""
        try:
            socks = bind(self._host, self._port, "", BACKLOG)
        except BindError as error:
            raise BindError(f"GPU exporter: {error}") from error
        host, port = socks[0].getsockname()[:2]
        runner = self._runner = web.ServerRunner(
            _Server(self, asyncio.get_running_loop()), handle_signals=False, shutdown_timeout=STOP_S
        )
        await runner.setup()
        for sock in socks:
            await web.SockSite(runner, sock, backlog=BACKLOG).start()
        self._watch.begin()  # (the first takes longest)
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return self.url

    async def stop(self) -> None:
        """Stop accepting, give answers under way ``STOP_S``, then cut; and let the driver go."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        await self._watch.close()

    def fault(self, error: BaseException | None) -> None:
        """An error that is ours: the log has where it happened, the caller only that it did."""
        self._log.error("GPU exporter failed", error=described(error) if isinstance(error, BaseException) else "unknown")

    # --- connections
    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def joined(self, conn: _Connection) -> None:
        """Make room for ``conn``; where all have requests under way, the one that has been answered for longest is cut."""
        there = self._connections
        there[conn] = None
        if len(there) > MAX_CONNECTIONS:
            leaves = next((one for one in there if one is not conn and not one.busy), None) or next(iter(there))
            del there[leaves]
            if leaves.busy and leaves.transport is not None:
                leaves.transport.abort()  # (what it does not take would be kept)
            else:
                leaves.force_close()

    def left(self, conn: _Connection) -> None:
        self._connections.pop(conn, None)

    # --- one request
    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer, and see the answer taken."""
        conn = cast(_Connection, request.protocol)
        conn.busy = True
        try:
            try:
                response = await self._answer(request)
            except (ConnectionError, asyncio.CancelledError):
                raise
            except Exception as error:
                self.fault(error)
                response = _refusal(KINDS["internal"])
            async with asyncio.timeout(WRITE_S):
                await response.prepare(request)
                await response.write_eof()
                await request.writer.drain()
            return response
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the answer was not taken in time") from None
        finally:
            conn.busy = False
            if self._connections.pop(conn, conn) is None:
                self._connections[conn] = None

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        hosts = request.headers.getall("Host", [])
        if len(hosts) > 1 or (not hosts and request.version >= (1, 1)) or request.can_read_body:
            return _refusal(KINDS["bad_request"])
        if hosts and not self._hosts.allows(hosts[0].encode("latin-1", "replace")):
            return _refusal(KINDS["host_not_allowed"])
        path = request.raw_path.partition("?")[0]
        if path not in ("/", "/metrics", "/health"):
            return _refusal(KINDS["not_found"])
        if request.method not in ("GET", "HEAD"):
            refused = _refusal(KINDS["method_not_allowed"])
            refused.headers["Allow"] = "GET, HEAD"
            return refused
        if path == "/metrics":
            return _packed(request, await self._watch.page(), METRICS)
        if path == "/health":
            return web.Response(body=msgspec.json.encode(self._watch.health()), headers={"Content-Type": JSON})
        return web.Response(body=_PAGE, headers={"Content-Type": "text/plain; charset=utf-8"})


def _packed(request: web.BaseRequest, text: bytes, kind: str) -> web.Response:
    takes = request.headers.get("Accept-Encoding", "").lower().replace(" ", "").split(",")
    wanted = any(one.partition(";")[0] == "gzip" and not _NEVER(one) for one in takes)
    headers = {"Content-Type": kind, "Vary": "Accept-Encoding"}
    if wanted and len(text) >= PACKED_BYTES:
        # (A page of sixteen GPUs under all names is a quarter of a megabyte: three milliseconds, and a tenth of the bytes.)
        text = gzip.compress(text, 1)
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=text, headers=headers)
