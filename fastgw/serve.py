"""A gateway of one's own process: its signals, its limits, its log. ``fastgw serve`` is this.

Owns what only a whole process can be told: the loop, the collector, the allocator, how many descriptors there are, and that no
core file is left. An embedded gateway (``app.Gateway``) leaves all of that to its program.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import uvloop

from fastgw import twins
from fastgw.accel.landing import retain
from fastgw.app import Gateway, StartError
from fastgw.config import Config
from fastgw.config.machine import NOBODY, Origin, open_files, supervisor
from fastgw.errors import described
from fastgw.net.listener import BindError
from fastgw.net.supervisor import Supervisor
from fastgw.observe.libraries import hear
from fastgw.observe.log_file import LogFile
from fastgw.observe.logs import LEVELS, LogWriter, is_json, to_stderr
from fastgw.reload import Reloader
from fastgw.several import Orders, part_of
from fastgw.stats import Stats
from fastgw.successor import Successor
from fastgw.upgrade.refusals import NotTaken
from fastgw.workers.part import Part

# Nothing that traffic leaves behind needs the collector; exceptions and the control listener's connections do. Ten thousand
# streams are 170,000 objects, at 0.2 µs each: what is new is looked at in small lots, and the rest hardly ever.
YOUNG: Final = 2_000  # objects more than went: 0.4 ms. (50,000 held the loop for 9 ms.)
NEVER: Final = 1_000_000  # of such looks, before the collector turns to the rest of its own accord
LOT_S: Final = 0.25  # where as many go as come, nothing but time says that many are new
ALL_S: Final = 600.0
FEW_EXCHANGES: Final = 100
ROOM: Final = 131_072  # descriptors that the kernel is told of at the start; at 8 bytes each
SWITCH_S: Final = 0.0005  # a thread that works for the store or the log keeps the loop waiting no longer (usual: 5 ms)

# What only some requests need is imported when the start is over, and before one asks: by then there may be no descriptor to
# read it with, or no file any more (after an update; where /tmp is tidied, under the program that is one file).
SOME_NEED: Final = (
    *("httptools", "ipaddress", "urllib.parse", "zstandard"),  # (the last where it is installed)
    # Handing over: when SIGUSR2 comes another version lies there, and half of that in this process would speak for neither.
    *("subprocess", "fastgw.net.process_line", "fastgw.upgrade.words", "fastgw.exchange.responses"),
    *("fastgw.upgrade.standing", "fastgw.upgrade.forward", "fastgw.upgrade.giving"),
)
OVER_S: Final = 1.0

# What may follow a drain, at the most: error events leave, the store takes the last of it, the log is written.
AFTER_DRAIN_S: Final = 15.0


def serve(config: Config, read: Callable[[], Config] | None = None, origin: Origin = NOBODY) -> int:
    """Run a gateway until SIGTERM or SIGINT; returns the exit code. With SIGHUP ``read`` (None: there are no others)
    is asked for settings that hold from then on; where it raises ConfigErrors nothing changes. With SIGUSR2 another process
    takes this one's place. Raises :class:`~fastgw.app.StartError`."""
    _raise_file_limit()
    _make_room(2 * config.max_connections)
    _no_core_file()
    retain()
    stats = Stats()
    manager = Supervisor(*supervisor())
    log = to_stderr(config.log_level, config.log_format, stats, config.log_flood_rate)
    terminal = _terminal()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gateway = Gateway(config, log=log, access=_access(config, log), stats=stats, alone=True)
        drain, at_once, handed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        part = part_of(config, origin, log)

        def signalled() -> None:
            if drain.is_set():
                at_once.set()
            drain.set()

        def hung_up() -> None:
            if terminal >= 0 and not os.isatty(terminal):
                log.info("the terminal was closed")  # (for those who log elsewhere)
                drain.set()
            else:
                reloader.ask()

        reopen = _reopener(log)
        successor = Successor(gateway, log=log, manager=manager, handed=handed.set)
        reloader = _reloader(gateway, read or (lambda: config), log, manager, reopen, successor)
        orders = Orders(gateway, drain, at_once, reopen, reloader)
        # Before anything listens: a signal that comes during the start is a drain like any other.
        told = {signal.SIGTERM: signalled, signal.SIGINT: signalled, signal.SIGHUP: hung_up, signal.SIGUSR1: reopen}
        told |= {signal.SIGUSR2: successor.ask, **(orders.signals(part, log) if part is not None else {})}
        for number, called in told.items():
            loop.add_signal_handler(number, called)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP, signal.SIGTERM, *told])
        await _begin(gateway, origin, log, part)
        log.start(loop)
        for warning in (*without_engines(config), *config.warnings) if not origin.worker else ():
            log.warning(warning)
        log.info("listening", **_told(gateway))
        manager.ready(f"listening on {' '.join(gateway.addresses)}")
        _hear(loop, log)
        _settle(loop, stats)
        reloader.ready()
        successor.ready()
        await _first(drain, handed, orders.retired)
        reloader.close()
        gone = handed.is_set() or orders.retired.is_set()
        if not (gone and await _retired(gateway, drain, log, orders.seconds)):
            await successor.stop()
            await _drain(gateway, at_once, log, manager)
        log.info("stopped")

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    finally:
        manager.close()
        log.close()
    return 0


async def _begin(gateway: Gateway, origin: Origin, log: LogWriter, part: Part | None) -> None:
    """Start it, on sockets of its own or on given ones, or in the place of the process before."""
    try:
        if origin.before >= 0:
            if part is not None:
                raise StartError("workers are others than in the gateway that runs: stop it, and start it again")
            from fastgw.upgrade.taking import Taking

            await gateway.start(before=Taking(origin.before, log))
        elif origin.given:
            from fastgw.net.given import by_manager

            await gateway.start(by_manager(origin.given, origin.names), part=part)
        else:
            await gateway.start(part=part)
    except (BindError, NotTaken) as error:
        raise StartError(str(error)) from error


async def _retired(gateway: Gateway, drain: asyncio.Event, log: LogWriter, seconds: float) -> bool:
    """Another process has its place: it ends what it has, in so many ``seconds`` (below 0: as its settings say). False = it is
    to ``drain`` before that is over."""
    seconds = gateway.config.upgrade_timeout_s if seconds < 0.0 else seconds
    log.info("retiring", seconds=seconds, exchanges=gateway.stats.exchanges_open)
    retiring = asyncio.ensure_future(gateway.retire(seconds))
    draining = asyncio.ensure_future(drain.wait())
    await asyncio.wait({retiring, draining}, return_when=asyncio.FIRST_COMPLETED)
    for one in (draining, retiring):
        one.cancel()
    await asyncio.wait({retiring})
    return not retiring.cancelled() and retiring.result() is None


async def _first(*events: asyncio.Event) -> None:
    """Until one of them is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for one in waiting:
        one.cancel()


async def _drain(gateway: Gateway, at_once: asyncio.Event, log: LogWriter, manager: Supervisor) -> None:
    """As the signal has asked for it."""
    delay_s, drain_s, exchanges = gateway.config.drain_delay_s, gateway.config.drain_timeout_s, gateway.stats.exchanges_open
    log.info("draining", seconds=drain_s, exchanges=exchanges, **({"delay": delay_s} if delay_s else {}))
    manager.stopping(f"draining {exchanges} requests", delay_s + drain_s + AFTER_DRAIN_S)
    await _stop(gateway, at_once)


async def _stop(gateway: Gateway, at_once: asyncio.Event) -> None:
    """Its drain, and its end; both in a moment once it is to be ``at_once``."""
    stopping = asyncio.ensure_future(gateway.stop())
    hurry = asyncio.ensure_future(at_once.wait())
    await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not stopping.done():
        stopping.cancel()
        await asyncio.wait({stopping})
        await gateway.stop(0.0)
    else:
        stopping.result()


def _hear(loop: asyncio.AbstractEventLoop, log: LogWriter) -> None:
    """What libraries warn of, and exceptions that nobody can be told of, go into the log as all else does, where Python would
    print them: so many lines a second, and nothing of a value. (A name in a TLS handshake that is no text is one that strangers
    bring about.)"""

    def unraisable(what: sys.UnraisableHookArgs) -> None:
        if what.exc_value is not None:
            error = described(what.exc_value)
            with suppress(RuntimeError):  # (the loop has gone; and this may be any thread)
                loop.call_soon_threadsafe(lambda: log.warning("an exception that nobody could be told of", error=error))

    sys.unraisablehook = unraisable
    hear(log)


def _told(gateway: Gateway) -> dict[str, object]:
    """What the first line of the log says of it."""
    core = gateway.core
    return {
        "urls": " ".join(gateway.addresses),
        "engines": engines_told(gateway.config),
        "auth": "keys" if core is not None and core.accounts.required else "none",
        **({"control": gateway.control_url} if gateway.control_url else {}),
        "native": "yes" if twins.native() else "no",
        "pid": os.getpid(),
    }


def engines_told(config: Config) -> str:
    """Which engines there are, and what brings others."""
    brings = [f"{one.discover}:{one.name}" if one.discover else one.name for one in config.engines]
    brings += [f"file:{config.engines_file}"] if config.engines_file else []
    brings += ["runners"] if config.runner_auth_token else []
    return " ".join(brings) or "none"


def without_engines(config: Config) -> tuple[str, ...]:
    """What to do where there is no engine, and nothing that brings one."""
    if config.engines or config.engines_file or config.runner_auth_token:
        return ()
    operated = config.control_listen and (config.admin_key or config.admin_keys)
    here = "name it in the configuration and send SIGHUP" + (", or POST it to /admin/engines" if operated else "")
    return (f"no engine is named, so no request can be answered: start with --engine http://host:port, or {here}",)


def _access(config: Config, log: LogWriter) -> LogWriter | None:
    """Who is told of each request: its line is one of the level info."""
    return log if config.access_log and LEVELS[config.log_level] <= LEVELS["info"] else None


def _reopener(log: LogWriter) -> Callable[[], None]:
    """What has the log go on in a new file, where it is one and was renamed."""
    file = LogFile()

    def reopen() -> None:
        try:
            if file.reopen():
                log.info("the log goes on in a new file", path=file.path)
        except OSError as error:
            log.warning("the log goes on in the old file", path=file.path, error=error.strerror or "")

    return reopen


def _reloader(
    gateway: Gateway, read: Callable[[], Config], log: LogWriter, manager: Supervisor, reopen: Callable[[], None],
    successor: Successor,
) -> Reloader:
    """Whoever has the gateway read its settings again, and the log follow."""
    warned = set(gateway.config.warnings)

    def first() -> None:
        reopen()
        successor.read_again()

    def followed(config: Config) -> None:
        log.change(level=config.log_level, json=is_json(config.log_format), flood_rate=config.log_flood_rate)
        if gateway.core is not None:
            gateway.core.tell(_access(config, log))
        for warning in config.warnings:
            if warning not in warned:
                log.warning(warning)
        warned.update(config.warnings)

    return Reloader(gateway, read, log=log, manager=manager, first=first, followed=followed)


def _settle(loop: asyncio.AbstractEventLoop, stats: Stats) -> None:
    """The start is over."""
    # What lives now lives until the end: the collector need not look at it again. It is not looked through even once:
    # that would hold the first requests for milliseconds.
    gc.freeze()
    gc.set_threshold(YOUNG, NEVER, NEVER)
    gc.enable()
    sys.setswitchinterval(SWITCH_S)
    _tidy(loop, stats)
    loop.call_later(OVER_S, _bring, loop, SOME_NEED)


def _tidy(loop: asyncio.AbstractEventLoop, stats: Stats, turn: int = 1) -> None:
    """Look through what is new, and now and then through all that has come since the start."""
    loop.call_later(LOT_S, _tidy, loop, stats, turn + 1)
    if turn % int(ALL_S / LOT_S) == 0:
        gc.collect(1)
    elif stats.exchanges_open > FEW_EXCHANGES:
        gc.collect(0)


def _bring(loop: asyncio.AbstractEventLoop, names: Sequence[str]) -> None:
    """Import these, one in a turn of the loop: a millisecond each."""
    with suppress(ImportError, OSError):  # who needs it says so
        __import__(names[0])
    if len(names) > 1:
        loop.call_soon(_bring, loop, names[1:])


def _terminal() -> int:
    """A descriptor that is a terminal, by which it shows that this was closed; -1 = there is none, or nobody minds (nohup).

    SIGHUP says both: that a terminal has gone, and that a daemon's settings are others. Whoever closes the one that he
    started a gateway in has it end, with a drain; and every other SIGHUP is a reload.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return -1
    return next((fd for fd in (0, 1, 2) if os.isatty(fd)), -1)


def _raise_file_limit() -> None:
    """As many descriptors as the system allows: each client and each engine connection takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError) as error:
            print(f"fastgw: cannot raise the limit of open files from {soft}: {error}", file=sys.stderr)


def _make_room(files: int) -> None:
    """Have the kernel's table of our descriptors as large as it may become, before there are threads.

    It grows by doubling, and where threads share it each doubling waits until no processor reads the old one: 10 to 20 ms in
    which the loop stands still, at the 257th descriptor, the 513th and so on. It never shrinks.
    """
    last = min(files, open_files() or files, ROOM) - 1
    fd = os.eventfd(0)
    try:
        os.fstat(last)  # inherited: then it is as large already
    except OSError:
        with suppress(OSError):
            os.close(os.dup2(fd, last, inheritable=False))
    finally:
        os.close(fd)


def _no_core_file() -> None:
    """A crash leaves no core file: it would hold keys and prompts. ``prlimit --core`` brings it back while debugging."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
