"""The control listener: ``/healthz``, ``/metrics`` and, for the operator, ``/admin``.

Owns: its own sockets, the proof that a caller is the operator, the bounds on what any caller may hold, and the rendering of
every answer, those to malformed requests included. Loopback is its place; it is never on the data path. Must never: open
``/admin`` without a key (none configured = denied), answer under a name that a web page could have brought (``Host``), log a
key or a body, or say in an error what it is made of.

No address holds more than half of the connections. Whoever comes when they are taken gets in all the same: the one that has had
no request under way for longest gives way, of the same address where that has its half. (Most come from loopback, the operator
and whoever means harm: a share alone would keep neither out, or both.)

Time limits: ``IDLE_S`` for a request's head (and between requests), ``BODY_S`` for its body, ``WRITE_S`` for the answer to be
taken. The transport is told to call writing done only when its buffer is empty, so that a caller who does not read is seen.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from hashlib import sha256
from math import ceil
from typing import Any, Final, cast
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from fastgw.control.admin_engines import AdminEngines, EnginesBackend
from fastgw.control.admin_keys import AdminKeys, KeysBackend
from fastgw.control.admin_reload import AdminReload
from fastgw.control.call import AdminAnswer, AdminCall
from fastgw.errors import KINDS, ErrorKind, GatewayError, body, described
from fastgw.limits.meter import address_key
from fastgw.net.clock import monotonic
from fastgw.net.listener import BindError, bind
from fastgw.protocol.hosts import HostRule
from fastgw.protocol.media import in_utf_8
from fastgw.protocol.secrets import masked
from fastgw.stats import EventLog

IDLE_S: Final = 15.0
BODY_S: Final = 10.0
WRITE_S: Final = 20.0  # a scrape over a slow link takes seconds
LINGER_S: Final = 2.0  # to read what was not wanted, so that the answer is not lost to a reset
STOP_S: Final = 2.0
BACKLOG: Final = 64
MAX_CONNECTIONS: Final = 128
MAX_LINE_BYTES: Final = 8190
MAX_FIELDS: Final = 64
MAX_BODY_BYTES: Final = 1 << 19  # the longest key that can be: a thousand models of 256 characters

FAILURES: Final = 10  # from one address within FAILURES_S; then it waits
FAILURES_S: Final = 60.0
MAX_ADDRESSES: Final = 1024

HOST_TOLD_EVERY_S: Final = 10.0

JSON: Final = "application/json"
METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"  # the Prometheus text format
CHALLENGE: Final = 'Bearer realm="fastgw admin"'


class Throttle:
    """Failed proofs by address (IPv6 by /64): a guesser is slowed, and those forgotten who have not failed for longest.

    At most ``MAX_ADDRESSES`` addresses with ``FAILURES`` times each: 1.2 MB at most, measured.
    """

    __slots__ = ("_failures",)

    def __init__(self) -> None:
        self._failures: dict[str, deque[float]] = {}

    def __len__(self) -> int:
        return len(self._failures)

    def wait_s(self, address: str, now: float) -> float:
        """How long ``address`` must wait; 0.0 = it may try."""
        times = self._failures.get(address_key(address))
        if times is None or len(times) < FAILURES:
            return 0.0
        return max(0.0, times[0] + FAILURES_S - now)

    def failed(self, address: str, now: float) -> bool:
        """``address`` has failed; True when it must wait from now on."""
        key = address_key(address)
        times = self._failures.pop(key, None)
        if times is None:
            times = deque(maxlen=FAILURES)
            if len(self._failures) >= MAX_ADDRESSES:
                del self._failures[next(iter(self._failures))]
        times.append(now)
        self._failures[key] = times  # the last to have failed stands last
        return self.wait_s(address, now) > 0.0


class _Request(web.BaseRequest):
    """A request whose answer does not name the library that wrote it."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        response.headers.popall("Server", None)


class _Connection(web.RequestHandler):
    """One connection: counted, bounded, and answering malformed requests like any others."""

    __slots__ = ("_control", "address", "busy")

    def __init__(self, manager: web.Server, control: ControlServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=IDLE_S,
            access_log=None,  # type: ignore[arg-type]  # None = none, as its code has it
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_FIELDS,
            lingering_time=LINGER_S,
            auto_decompress=False,  # a compressed body is refused, not unpacked
        )
        self._control = control
        self.address = ""
        self.busy = False  # a request is under way

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        cast(asyncio.Transport, transport).set_write_buffer_limits(high=0)  # uvloop's is a Transport by its methods only
        peer = transport.get_extra_info("peername")
        self.address = address_key(peer[0]) if peer else ""
        self._control.joined(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._control.left(self)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        error = kw.get("exc_info")
        self._control.fault(error if isinstance(error, BaseException) else None)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to what could not be parsed. ``message`` quotes the request, so it is not sent. Raises ConnectionError
        where there is nothing to say, which closes the connection."""
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionError("nobody is there, or an answer has been begun")
        if isinstance(exc, LineTooLong):
            return _response(KINDS["head_too_large"])
        if isinstance(exc, HttpProcessingError):
            return _response(KINDS["bad_request"])
        self._control.fault(exc)
        return _response(KINDS["internal"])


class _Server(web.Server):
    """Makes the connections."""

    def __init__(self, control: ControlServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(control.handle, request_factory=self._request)
        self._control = control

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, self._control, self._loop)

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return _Request(message, payload, protocol, writer, task, self._loop)


def _response(kind: ErrorKind, message: str | None = None, param: str | None = None) -> web.Response:
    response = web.Response(status=kind.status, body=body(kind, message, param), headers={"Content-Type": JSON})
    if kind.close:
        response.force_close()
    return response


class ControlServer:
    """The control listener of one gateway.

    ``admin_key`` is what opens ``/admin`` ("" = nothing does). ``metrics`` gives the Prometheus text in pieces, ``health`` what
    ``/healthz`` says beside ``ok``: in the loop, so that both must be quick, each piece by itself. ``keys`` is None without a
    key store, ``engines`` where nobody manages any, ``reload`` where the settings cannot be read again; ``hosts`` judges the
    ``Host`` of every request.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        admin_key: str,
        log: EventLog,
        metrics: Callable[[], Iterable[bytes]],
        health: Callable[[], Mapping[str, object]],
        keys: KeysBackend | None,
        engines: EnginesBackend | None = None,
        hosts: HostRule,
        reload: Callable[[], Awaitable[tuple[int, Any]]] | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        clock: Callable[[], float] = monotonic,
        tls: Any = None,
    ) -> None:
        """``tls``: an ``SSLContext`` to listen with; None = without TLS."""
        self._tls = tls
        self._host = host
        self._port = port
        self._digest = sha256(admin_key.encode()).digest() if admin_key else b""
        self._log = log
        self._metrics = metrics
        self._health = health
        self._keys = AdminKeys(keys)
        self._engines = AdminEngines(engines)
        self._hosts = hosts
        self._reload = AdminReload(reload)
        self._max_body_bytes = max_body_bytes
        self._host_told_at = -HOST_TOLD_EVERY_S
        self._clock = clock
        self._throttle = Throttle()
        self._runner: web.ServerRunner | None = None
        self.url = ""
        self._connections: dict[_Connection, None] = {}  # the longest without a request first
        self.auth_failures = 0
        """How often somebody failed to prove to be the operator, refusals for trying too often included."""

    def follow(self, admin_key: str, hosts: HostRule) -> None:
        """From the next request on ask for that key, and under these names."""
        self._digest = sha256(admin_key.encode()).digest() if admin_key else b""
        self._hosts = hosts

    # --- connections
    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def joined(self, conn: _Connection) -> None:
        """Make room for ``conn``; where all have requests under way, it is the one that is closed."""
        there = self._connections
        there[conn] = None
        same = [one for one in there if one.address == conn.address]
        crowd = same if len(same) > max(1, MAX_CONNECTIONS // 2) else list(there) if len(there) > MAX_CONNECTIONS else []
        if crowd:
            leaves = next(one for one in crowd if one is conn or not one.busy)
            del there[leaves]
            leaves.force_close()

    def left(self, conn: _Connection) -> None:
        self._connections.pop(conn, None)

    def _turned(self, conn: _Connection, busy: bool) -> None:
        """A request on ``conn`` has begun, or ended."""
        conn.busy = busy
        if self._connections.pop(conn, conn) is None:
            self._connections[conn] = None

    async def start(self) -> str:
        """Listen; returns the URL. Raises :class:`fastgw.net.listener.BindError`, one line that names the address."""
        if self._runner is not None:
            raise RuntimeError("the control listener has started already")
        try:
            socks = bind(self._host, self._port, "", BACKLOG)
        except BindError as error:
            raise BindError(f"control listener: {error}") from error
        loop = asyncio.get_running_loop()
        host, port = socks[0].getsockname()[:2]
        runner = self._runner = web.ServerRunner(_Server(self, loop), handle_signals=False, shutdown_timeout=STOP_S)
        try:
            await runner.setup()
            for sock in socks:
                await web.SockSite(runner, sock, backlog=BACKLOG, ssl_context=self._tls).start()
        except BaseException:
            await self.stop()
            for sock in socks:
                sock.close()
            raise
        scheme = "http" if self._tls is None else "https"
        self.url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        return self.url

    async def stop(self) -> None:
        """Stop accepting, give answers under way ``STOP_S``, then cut. Safe to call twice."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        self.url = ""

    def fault(self, error: BaseException | None) -> None:
        """An error that is ours: the log has where it happened, the caller only that it did."""
        self._log.error("control failed", error=described(error) if error is not None else "unknown")

    # --- one request
    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer, and see the answer taken."""
        conn = cast(_Connection, request.protocol)
        self._turned(conn, True)
        try:
            return await self._handled(request)
        finally:
            self._turned(conn, False)

    async def _handled(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            response = await self._answer(request)
        except GatewayError as error:
            response = self._refused(error)
        except (ConnectionError, asyncio.CancelledError):
            raise  # the caller has left
        except Exception as error:
            self.fault(error)
            response = _response(KINDS["internal"])
        try:
            async with asyncio.timeout(WRITE_S):
                await response.prepare(request)
                await response.write_eof()
                await request.writer.drain()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the answer was not taken in time") from None
        return response

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        path, _, _ = request.raw_path.partition("?")
        hosts = request.headers.getall("Host", [])
        if len(hosts) > 1 or (not hosts and request.version >= (1, 1)):
            raise GatewayError("bad_request")
        host = hosts[0] if hosts else ""
        if not path.startswith("/"):
            whole = urlsplit(path)  # the absolute form (RFC 9112 §3.2.2)
            path, host = whole.path or "/", whole.netloc
        named = host.encode("utf-8", "surrogateescape")
        if not self._hosts.allows(named):
            self._refused_host(named)
            raise GatewayError("host_not_allowed")
        if path == "/admin" or path.startswith("/admin/"):
            return await self._administer(request, path)
        if path == "/healthz":
            _only_get(request)
            return _json(200, {"status": "ok", **self._health()})
        if path == "/metrics":
            _only_get(request)
            text = bytearray()
            for piece in self._metrics():
                text += piece
                await asyncio.sleep(0)  # a thousand engines are thirty milliseconds: no stream waits for them
            return web.Response(body=text, headers={"Content-Type": METRICS})
        raise GatewayError("not_found")

    def _refused_host(self, host: bytes) -> None:
        """Say which name it was, now and then: a scraper that asks under it sees nothing but 421."""
        now = self._clock()
        if now - self._host_told_at >= HOST_TOLD_EVERY_S:
            self._host_told_at = now
            shown = masked(host, lambda part: hmac.compare_digest(sha256(part).digest(), self._digest))
            self._log.warning(
                "a request under a host name that is not in allowed_hosts", host=shown.decode("latin-1"), status=421
            )

    @staticmethod
    def _refused(error: GatewayError) -> web.Response:
        response = _response(error.kind, error.message, error.param)
        if error.retry_after_s is not None:
            response.headers["Retry-After"] = str(max(1, ceil(error.retry_after_s)))
        if error.allow is not None:
            response.headers["Allow"] = error.allow
        if error.kind.status == 401:
            response.headers["WWW-Authenticate"] = CHALLENGE
        return response

    # --- the operator
    async def _administer(self, request: web.BaseRequest, path: str) -> web.Response:
        address = request.remote or "unknown"
        if not self._digest:
            self._log.debug("admin", actor=address, action="denied", status=403)
            raise GatewayError("forbidden", "Administration is closed: no ADMIN_KEY is set.")
        self._prove(request, address)
        call = AdminCall(
            method=request.method,
            path=path,
            query=list(request.query.items()),
            actor=f"admin:{address}",
            read=lambda: self._body(request),
        )
        status = 500
        page: AdminEngines | AdminKeys | AdminReload = self._keys
        if self._engines.owns(path):
            page = self._engines
        elif self._reload.owns(path):
            page = self._reload
        try:
            answer = await page.answer(call)
            status = answer.status
            return _administered(answer)
        except GatewayError as error:
            status = error.kind.status
            response = self._refused(error)
            response.headers["Cache-Control"] = "no-store"
            return response
        finally:
            about = {"engine": call.engine} if page is self._engines else {}
            if page is self._keys:
                about = {"key_id": call.logged_id}
            self._log.info("admin", actor=address, action=call.action, **about, status=status)

    def _prove(self, request: web.BaseRequest, address: str) -> None:
        """Raises unless the caller has the admin key: 401, or 429 after too many failures.

        The right key is let in whatever came before it: whoever shares the operator's address must not lock him out.
        """
        given = request.headers.getall("Authorization", [])
        scheme, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        digest = sha256(key.strip(" ").encode("utf-8", "surrogateescape")).digest()
        if hmac.compare_digest(digest, self._digest) and scheme.lower() == "bearer":
            return
        self.auth_failures += 1
        now = self._clock()
        wait_s = self._throttle.wait_s(address, now)
        if wait_s > 0.0:
            raise GatewayError("rate_limited", "Too many failed attempts.", retry_after_s=wait_s)
        waits = self._throttle.failed(address, now)
        self._log.warning("admin", actor=address, action="denied", status=401, blocked_s=FAILURES_S if waits else 0)
        raise GatewayError("unauthorized", "The admin key is required.")

    async def _body(self, request: web.BaseRequest) -> bytes:
        """The whole body; 408 when it is slow, 413 when it is large, 415 when it is compressed, or not in UTF-8."""
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise GatewayError("unsupported_media_type", "A compressed body is not taken here.")
        if not in_utf_8(request.headers.get("Content-Type", "").encode("utf-8", "surrogateescape")):
            raise GatewayError("unsupported_media_type", "A body in another charset than UTF-8 is not taken here.")
        if (request.content_length or 0) > self._max_body_bytes:
            raise GatewayError("body_too_large", f"At most {self._max_body_bytes} bytes are taken here.")
        expects = request.headers.get("Expect", "")
        if expects and expects.lower() != "100-continue":
            raise GatewayError("expectation_failed")
        read = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                if expects and request.version >= (1, 1):
                    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    request.writer.output_size = 0  # the answer has not begun
                while piece := await request.content.readany():
                    read += piece
                    if len(read) > self._max_body_bytes:
                        raise GatewayError("body_too_large", f"At most {self._max_body_bytes} bytes are taken here.")
        except TimeoutError as error:
            raise GatewayError("request_timeout") from error
        except (web.RequestPayloadError, HttpProcessingError) as error:
            raise GatewayError("bad_request") from error
        return bytes(read)


def _only_get(request: web.BaseRequest) -> None:
    if request.method not in ("GET", "HEAD"):
        raise GatewayError("method_not_allowed", allow="GET, HEAD")


def _json(status: int, document: object) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(document), headers={"Content-Type": JSON})


def _administered(answer: AdminAnswer) -> web.Response:
    response = _json(answer.status, answer.document) if answer.document is not None else web.Response(status=answer.status)
    response.headers.update(answer.headers)
    response.headers["Cache-Control"] = "no-store"  # it may hold a key
    return response
