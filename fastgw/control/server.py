"""The control listener: ``/healthz``, ``/metrics`` and, for the operator, ``/admin``.

Owns: its own sockets, the proof that a caller is the operator, the bounds on what any caller may hold, and the rendering of
every answer, those to malformed requests included. Loopback is its place; it is never on the data path. Must never: open
``/admin`` without a key (none configured = denied), answer under a name that a web page could have brought (``Host``), log a
key or a body, or say in an error what it is made of.

No address holds more than half of the connections. Whoever comes when they are taken gets in all the same: the one that has had
no request under way for longest gives way, of the same address where that has its half; where all have one under way, whoever
has been answered for longest without a key (sixty readers of metrics that do not read would keep the operator out). Most come
from loopback, he and whoever means harm: a share alone would keep neither out, or both.

Time limits: ``IDLE_S`` for a request's head (and between requests), ``BODY_S`` for its body, ``WRITE_S`` for the answer to be
taken. The transport is told to call writing done only when its buffer is empty, so that a caller who does not read is seen.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol, cast
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from fastgw.config.names import ENGINE_KINDS
from fastgw.control.admin_engines import AdminEngines, EnginesBackend
from fastgw.control.admin_explain import AdminExplain, ExplainBackend
from fastgw.control.admin_gateway import AdminGateway, EventsBackend, Metrics
from fastgw.control.admin_keys import AdminKeys, KeysBackend
from fastgw.control.admin_limits import AdminLimits
from fastgw.control.admin_limits import Backend as LimitsBackend
from fastgw.control.admin_live import AdminLive
from fastgw.control.admin_reload import AdminReload, Again
from fastgw.control.admin_runners import AdminRunners, RunnersBackend
from fastgw.control.admin_usage import AdminUsage, UsageBackend
from fastgw.control.admin_workers import AdminWorkers
from fastgw.control.answers import answered, nowhere, refused, rendered
from fastgw.control.call import AdminAnswer, AdminCall, nothing
from fastgw.control.dashboard import Dashboard
from fastgw.control.proof import FAILURES_S, THE_KEY, AdminKey, Operators, Throttle
from fastgw.control.reading import read_body
from fastgw.control.routes import Role, Route, Routes
from fastgw.control.runners_ws import Masked, RunnerSockets
from fastgw.errors import KINDS, GatewayError, described
from fastgw.limits.meter import address_key
from fastgw.net.clock import monotonic
from fastgw.net.listener import BindError, bind, url_of
from fastgw.protocol.hosts import HostRule
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
HOST_TOLD_EVERY_S: Final = 10.0
RUNNERS_PATH: Final = "/ws/runners"


class Others(Protocol):
    """The processes that serve clients, where this one does not."""

    async def counted(self) -> None:
        """Returns when what they have counted is in the figures here."""

    async def settled(self) -> object:
        """Returns when what was done here holds there."""

    def engine(self, what: str, name: str, fields: dict[str, Any] | None = None, why: str = "") -> None:
        """The operator has done this with an engine here."""


class _Request(web.BaseRequest):
    """A request whose answer does not name the library that wrote it."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        response.headers.popall("Server", None)


class _Connection(Masked):
    """One connection: counted, bounded, and answering malformed requests like any others."""

    __slots__ = ("_control", "address", "busy", "opened", "told")

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
        self.told: asyncio.Task[Any] | None = None  # who writes an answer without an end to it
        self.opened: tuple[AdminKey, Role] | None = None  # whose key opened what is under way, and what that takes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # (Not 0: over TLS a buffer that is empty would count as full for ever. uvloop's is a Transport by its methods only.)
        cast(asyncio.Transport, transport).set_write_buffer_limits(high=1)
        peer = transport.get_extra_info("peername")
        self.address = address_key(peer[0]) if peer else ""
        self._control.joined(self)

    def abort(self) -> None:
        """End at once, whatever is still to be taken."""
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._control.left(self)
        if self.told is not None:
            self.told.cancel()

    def log_exception(self, *args: Any, **kw: Any) -> None:
        error = kw.get("exc_info")
        self._control.fault(error if isinstance(error, BaseException) else None)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to what could not be parsed. ``message`` quotes the request, so it is not sent. Raises ConnectionError
        where there is nothing to say, which closes the connection."""
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            if not isinstance(exc, (ConnectionError, HttpProcessingError)):
                self._control.fault(exc)  # (in the middle of an answer)
            raise ConnectionError("nobody is there, or an answer has been begun")
        if isinstance(exc, LineTooLong):
            return rendered(KINDS["head_too_large"])
        if isinstance(exc, HttpProcessingError):
            return rendered(KINDS["bad_request"])
        self._control.fault(exc)
        return rendered(KINDS["internal"])


class _Server(web.Server):
    """Makes the connections."""

    def __init__(self, control: ControlServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(control.handle, request_factory=self._request)
        self._control = control

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, self._control, self._loop)

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return _Request(message, payload, protocol, writer, task, self._loop)


class ControlServer:
    """The control listener of one gateway.

    ``operators`` are the keys that open ``/admin`` (none = nothing does). ``metrics`` writes what scrapers get,
    ``health`` what ``/healthz`` says beside ``ok``: in the loop, so that both must be quick, each piece by itself. ``keys`` is
    None without a key store, ``engines`` and ``events`` where nobody manages any, ``reload`` where the settings cannot be read
    again, ``config`` where nobody shows them; ``hosts`` judges the ``Host`` of every request.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        operators: Sequence[AdminKey],
        log: EventLog,
        metrics: Metrics,
        health: Callable[[], Mapping[str, object]],
        keys: KeysBackend | None,
        usage: UsageBackend | None = None,
        currency: Callable[[], str] = lambda: "",
        limits: LimitsBackend | None = None,
        engines: EnginesBackend | None = None,
        hosts: HostRule,
        reload: Again | None = None,
        config: Callable[[], Mapping[str, object]] | None = None,
        events: EventsBackend | None = None,
        runners: Callable[[], tuple[RunnersBackend, RunnerSockets] | None] = lambda: None,
        explain: ExplainBackend | None = None,
        live: AdminLive | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        clock: Callable[[], float] = monotonic,
        tls: Any = None,
    ) -> None:
        """``tls``: an ``SSLContext`` to listen with; None = without TLS."""
        self._tls = tls
        self._host = host
        self._port = port
        self._operators = Operators(operators)
        self._log = log
        self._hosts = hosts
        gateway = AdminGateway(metrics=metrics, health=health, config=config, events=events)
        self._metrics = metrics
        managed = (AdminEngines(engines), AdminWorkers(engines, ENGINE_KINDS), AdminRunners(lambda: (runners() or (None,))[0]))
        self._dialled = runners
        self._live = live or AdminLive(None)
        kept = (AdminKeys(keys), AdminUsage(usage, currency), AdminLimits(limits))
        pages = (gateway, *managed, AdminExplain(explain), *kept, AdminReload(reload), self._live, Dashboard())
        self._routes = Routes(row for page in pages for row in page.routes())
        gateway.knows(self._routes.rows)
        self._max_body_bytes = max_body_bytes
        self._host_told_at = -HOST_TOLD_EVERY_S
        self._clock = clock
        self._throttle = Throttle()
        self._runner: web.ServerRunner | None = None
        self._lets = asyncio.Event()  # the operator do something
        self.socks: list[socket.socket] = []  # it listens on copies of these
        self.url = ""
        self._connections: dict[_Connection, None] = {}  # the longest without a request first
        self.others: Others | None = None
        self.auth_failures = 0
        """How often somebody failed to prove to be the operator, refusals for trying too often included."""

    def follow(self, operators: Sequence[AdminKey], hosts: HostRule) -> None:
        """From now on ask for one of these keys, and under these names. What a key has opened that does not open it any more
        ends here, in the middle of an answer."""
        self._operators = Operators(operators)
        self._hosts = hosts
        for conn in list(self._connections):
            if conn.told is not None and conn.opened is not None and not self._operators.admit(*conn.opened):
                conn.abort()

    @property
    def routes(self) -> Sequence[Route]:
        """All that is answered."""
        return self._routes.rows

    # --- connections
    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def joined(self, conn: _Connection) -> None:
        """Make room for ``conn``; where all have requests under way that a key has opened, it is the one that is closed."""
        there = self._connections
        there[conn] = None
        same = [one for one in there if one.address == conn.address]
        crowd = same if len(same) > max(1, MAX_CONNECTIONS // 2) else list(there) if len(there) > MAX_CONNECTIONS else []
        if crowd:
            idle = next((one for one in crowd if one is not conn and not one.busy), None)
            leaves = idle or next(one for one in crowd if one.opened is None)
            del there[leaves]
            if leaves.busy:
                leaves.abort()  # (what it does not take would be kept)
            else:
                leaves.force_close()

    def left(self, conn: _Connection) -> None:
        self._connections.pop(conn, None)

    def _turned(self, conn: _Connection, busy: bool) -> None:
        """A request on ``conn`` has begun, or ended."""
        conn.busy = busy
        if self._connections.pop(conn, conn) is None:
            self._connections[conn] = None

    async def start(self, given: Sequence[socket.socket] | None = None, listens: bool = True) -> str:
        """Listen, on ``given`` sockets where there are some; returns the URL. ``listens`` False: :meth:`go_on` does. Raises
        :class:`fastgw.net.listener.BindError`, one line that names the address."""
        if self._runner is not None:
            raise RuntimeError("the control listener has started already")
        try:
            self.socks = list(given) if given else bind(self._host, self._port, "", BACKLOG)
        except BindError as error:
            raise BindError(f"control listener: {error}") from error
        loop = asyncio.get_running_loop()
        runner = self._runner = web.ServerRunner(_Server(self, loop), handle_signals=False, shutdown_timeout=STOP_S)
        try:
            await runner.setup()
            if listens:
                await self.go_on()
        except BaseException:
            await self.stop()
            raise
        self.url = url_of(self.socks[0], "http" if self._tls is None else "https")
        return self.url

    async def go_on(self) -> None:
        """Take connections, and what comes on those that are there."""
        assert self._runner is not None
        self._lets.set()
        for sock in self.socks:  # (a site closes the one that it has)
            await web.SockSite(self._runner, sock.dup(), backlog=BACKLOG, ssl_context=self._tls).start()

    async def hold(self) -> None:
        """Take no more connections until :meth:`go_on`; who asks for ``/admin`` on those that are there waits."""
        self._lets.clear()
        for site in list(self._runner.sites) if self._runner is not None else ():
            await site.stop()

    async def stop(self) -> None:
        """Stop accepting, give answers under way ``STOP_S``, then cut. Safe to call twice."""
        self._live.close()
        runner, self._runner = self._runner, None
        self._lets.set()
        if runner is not None:
            await runner.cleanup()
            await self._metrics.close()
        for sock in self.socks:
            sock.close()
        self.socks = []
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
            conn.told = conn.opened = None
            self._turned(conn, False)

    async def _handled(self, request: web.BaseRequest) -> web.StreamResponse:
        answer = AdminAnswer(500)
        try:
            answer, response = await self._answer(request)
            if response.prepared:
                return response  # a runner's, which has left
        except GatewayError as error:
            response = refused(error)
        except (ConnectionError, asyncio.CancelledError):
            raise  # the caller has left
        except Exception as error:
            self.fault(error)
            response = rendered(KINDS["internal"])
        if answer.pieces is not None and request.method != "HEAD":
            conn = cast(_Connection, request.protocol)
            conn.told = asyncio.current_task()
            await self._taken(request, response.prepare(request))
            async with aclosing(answer.pieces) as pieces:
                async for piece in pieces:
                    await self._taken(request, response.write(piece))
            await self._taken(request, response.write_eof())
        else:
            await self._taken(request, response.prepare(request), response.write_eof())
        return response

    @staticmethod
    async def _taken(request: web.BaseRequest, *writing: Awaitable[object]) -> None:
        """Write, and see it taken."""
        try:
            async with asyncio.timeout(WRITE_S):
                for one in writing:
                    await one
                await request.writer.drain()
        except TimeoutError:
            cast(_Connection, request.protocol).abort()
            raise ConnectionResetError("the answer was not taken in time") from None

    async def _answer(self, request: web.BaseRequest) -> tuple[AdminAnswer, web.StreamResponse]:
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
        if path == RUNNERS_PATH:
            return AdminAnswer(101), await self._dial_in(request)
        methods, names = self._routes.match(path)
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        below = path == "/admin" or path.startswith("/admin/")
        if below or any(row.role is not Role.OPEN for row in methods.values()):
            return await self._administer(request, path, names, methods, route)
        if route is None:
            raise nowhere(methods)
        takes = {"accept": request.headers.get("Accept", ""), "accept_encoding": request.headers.get("Accept-Encoding", "")}
        answer = await route.handler(AdminCall(request.method, path, (), "", nothing, names, **takes))
        return answer, answered(answer)

    async def _dial_in(self, request: web.BaseRequest) -> web.StreamResponse:
        """A runner: bounded by its own registry from here on, and no caller among those that are counted."""
        dialled = self._dialled()
        if dialled is None:
            raise GatewayError("not_found")
        self.left(cast(_Connection, request.protocol))
        return await dialled[1].serve(request, request.remote or "unknown")

    def _refused_host(self, host: bytes) -> None:
        """Say which name it was, now and then: a scraper that asks under it sees nothing but 421."""
        now = self._clock()
        if now - self._host_told_at >= HOST_TOLD_EVERY_S:
            self._host_told_at = now
            shown = masked(host, self._operators.owns)
            self._log.warning(
                "a request under a host name that is not in allowed_hosts", host=shown.decode("latin-1"), status=421
            )

    # --- the operator
    async def _administer(
        self, request: web.BaseRequest, path: str, names: dict[str, str], methods: Mapping[str, Route], route: Route | None
    ) -> tuple[AdminAnswer, web.StreamResponse]:
        address = request.remote or "unknown"
        if not self._operators:
            self._log.debug("admin", actor=address, action="denied", status=403)
            raise GatewayError("forbidden", "Administration is closed: no ADMIN_KEY is set.")
        who = self._prove(request, address)
        opened = cast(_Connection, request.protocol).opened = (who, route.role if route is not None else Role.READ)
        call = AdminCall(
            method=request.method,
            path=path,
            query=list(request.query.items()),
            actor=f"admin:{address}" if who.name == THE_KEY else f"admin:{who.name}@{address}",
            read=lambda: self._read(request, opened),
            names=names,
            last_event_id=request.headers.get("Last-Event-ID", ""),
        )
        status = 500
        try:
            if route is None:
                raise nowhere(methods, self._routes.paths())
            if route.role > who.role:
                raise GatewayError("forbidden", "This admin key may only read.")
            await self._let()
            if self.others is not None and request.method in ("GET", "HEAD"):
                await self.others.counted()
            answer = await route.handler(call)
            if self.others is not None and request.method not in ("GET", "HEAD"):
                await self.others.settled()
            status = answer.status
            response = answered(answer)
            response.headers["Cache-Control"] = "no-store"  # it may hold a key
            return answer, response
        except GatewayError as error:
            status = error.kind.status
            response = refused(error)
            response.headers["Cache-Control"] = "no-store"
            return AdminAnswer(status), response
        finally:
            action = route.action if route is not None else "unknown"
            known = (("engine", call.engine), ("runner", call.runner), ("key_id", call.logged_id))
            about = {name: found for name, found in known if found}
            self._log.info("admin", actor=address, by=who.name, action=action, **about, status=status)

    def _prove(self, request: web.BaseRequest, address: str) -> AdminKey:
        """Whose admin key the caller has; raises where he has none: 401, or 429 after too many failures.

        A right key is let in whatever came before it: whoever shares the operator's address must not lock him out.
        """
        who = self._operators.who(request.headers.getall("Authorization", []))
        if who is not None:
            return who
        self.auth_failures += 1
        now = self._clock()
        wait_s = self._throttle.wait_s(address, now)
        if wait_s > 0.0:
            raise GatewayError("rate_limited", "Too many failed attempts.", retry_after_s=wait_s)
        waits = self._throttle.failed(address, now)
        self._log.warning("admin", actor=address, action="denied", status=401, blocked_s=FAILURES_S if waits else 0)
        raise GatewayError("unauthorized", "The admin key is required.")

    async def _let(self) -> None:
        """Wait while another process takes over: it would not know what is done here meanwhile."""
        if await self._lets.wait() and self._runner is None:
            raise GatewayError("draining", "Another process is the gateway now, and nothing was done: send it again.")

    async def _read(self, request: web.BaseRequest, opened: tuple[AdminKey, Role]) -> bytes:
        """The body, where the key is still one when all of it has come."""
        body = await read_body(request, self._max_body_bytes, BODY_S)
        await self._let()
        if not self._operators.admit(*opened):
            raise GatewayError("unauthorized", "This admin key opens this no more: use one that holds now.")
        return body

