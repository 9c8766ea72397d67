"""``fastgw runner``: the command line of the agent. Runs until SIGTERM or SIGINT, then drains and exits with 0.

Must never: take a token from a flag (flags show in the process list). Exit codes: 0 done, 2 the command line is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, Protocol
from urllib.parse import urlsplit

import aiohttp
import uvloop

from fastgw.agent.asked import Asked, Front, GpuUse
from fastgw.agent.engine import CannotRead, LocalEngine
from fastgw.agent.link import Link
from fastgw.config import grammar
from fastgw.config.address import is_loopback, parse_engine_url
from fastgw.config.names import ENGINE_KINDS, LOG_LEVELS, EngineKind, LogLevel
from fastgw.protocol.runner_words import Register, RunnerStatus, from_runner, written
from fastgw.stats import EventLog

_EXAMPLES: Final = """\
examples:
  RUNNER_AUTH_TOKEN=... fastgw runner --gateway ws://gateway:8080 --engine http://127.0.0.1:8000
  fastgw runner --gateway ws://gateway:8080 --engine http://10.0.0.7:8000 --token-file /run/secrets/runner --machine gpu
  fastgw runner --gateway wss://gateway --engine http://127.0.0.1:11434 --id den --alias fast=llama3.2:3b
  fastgw runner --gateway ws://gateway:8080 --engine http://127.0.0.1:8000 --adapter sql=/models/sql-lora
  fastgw runner --gateway wss://gateway --engine http://127.0.0.1:8000 --tunnel
  fastgw runner --gateway ws://gateway:8080 --engine http://127.0.0.1:8000 --advertise http://10.0.0.7:9000

The gateway asks the engine at the address that this program comes from, and at the engine's port; or at --advertise, where its
RUNNER_ALLOWED_NETWORKS has that. The token is the gateway's RUNNER_AUTH_TOKEN; here it comes from the same variable, or a file.
"""
MAX_FILE_BYTES: Final = 4096
LEAST_PING_S: Final = 1.0
MOST_PING_S: Final = 10.0
"""The gateway is asked whether it lives as often as it is told that we do, within these."""


class Log(EventLog, Protocol):
    """A log that is written from a thread of its own."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None: ...

    def close(self) -> None: ...


ToLog = Callable[[LogLevel], Log]
ToGpus = Callable[[], Callable[[], GpuUse | None]]
ToFront = Callable[[str, EngineKind, str, tuple[str, ...], EventLog], Front]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _fail(message)


def _fail(message: str) -> NoReturn:
    print(f"fastgw runner: error: {message} (see fastgw runner --help)", file=sys.stderr)
    raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fastgw runner",
        usage="fastgw runner --gateway URL --engine URL [options]",
        description="Put the engine beside this program behind a gateway: dial in there, say what it serves, and how it is.",
        epilog=_EXAMPLES,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--gateway", metavar="URL", required=True, help="ws://host:port or wss://host[:port] of the gateway")
    add("--engine", metavar="URL", required=True, help="http://host:port of the engine, as this program reaches it")
    add("--token-file", metavar="FILE", help="a file with the token (default: env RUNNER_AUTH_TOKEN)")
    add("--id", metavar="TEXT", help="what the gateway knows it by (default: this machine's name and the engine's port)")
    add("--name", metavar="TEXT", default="", help="a name for people")
    add("--machine", metavar="TEXT", default="", help="what it runs on: gpu, cpu, or any word that routing is to know")
    add("--kind", choices=ENGINE_KINDS, default="auto", help="what the engine is (default: asked of it)")
    add("--advertise", metavar="URL", default="", help="http://address:port where the gateway is to ask the engine")
    add("--tunnel", action="store_true", help="have requests come over the same connection: no port is needed here")
    add("--path", metavar="PATH", action="append", default=[], help="of a tunnel: pass this path on too; can be repeated")
    add("--engine-key-file", metavar="FILE", help="a file with the key that the engine asks for")
    add("--alias", metavar="NAME=MODEL", action="append", default=[], help="another name for a model; can be repeated")
    add("--adapter", metavar="NAME=PATH", action="append", default=[], help="a LoRA adapter that may be loaded (vLLM, SGLang)")
    add("--no-pull", action="store_true", help="let Ollama load only models that it has already")
    add("--no-gpu", action="store_true", help="do not tell how the GPUs of this machine are")
    add("--heartbeat", metavar="SECONDS", type=float, default=30.0, help="say how it is so often at least (default 30)")
    add("--look", metavar="SECONDS", type=float, default=2.0, help="look at the engine so often (default 2)")
    add("--drain", metavar="SECONDS", type=float, default=30.0, help="time for what is under way, after SIGTERM (default 30)")
    add("--log-level", choices=LOG_LEVELS, default="info", help="what to log (default info)")
    return parser


def _secret(path: str | None, what: str, without: str = "") -> Callable[[], str]:
    """What is in that file, each time that it is called: it may be replaced. Raises CannotRead, at once with an exit."""

    def read() -> str:
        if path is None:
            return without
        try:
            with open(path, "rb") as file:
                text = file.read(MAX_FILE_BYTES + 1).decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CannotRead(f"{what}: {getattr(error, 'strerror', None) or 'not text'}") from None
        if not text or len(text) > MAX_FILE_BYTES or len(text.split()) != 1:
            raise CannotRead(f"{what}: the file must hold one word")
        return text

    try:
        read()
    except CannotRead as error:
        _fail(str(error))
    return read


def _pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            _fail(f"{flag} must be NAME=VALUE")
        found[name] = value
    return found


def _gateway(text: str) -> str:
    parts = urlsplit(text)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    try:
        good = scheme in ("ws", "wss") and parts.hostname and not parts.username and (parts.port or True)
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.path not in ("", "/", "/ws/runners"):
        _fail("--gateway must be ws://host:port or wss://host[:port], with the token in a file or a variable")
    return f"{scheme}://{parts.netloc}/ws/runners"


def asked(options: argparse.Namespace, token: str) -> Asked:
    """What the options say, judged by the rules of the protocol. Raises SystemExit with a line that says what is wrong."""
    try:
        engine = parse_engine_url(options.engine)
        advertised = parse_engine_url(options.advertise) if options.advertise else None
    except ValueError as error:
        _fail(str(error))
    if engine.unix_path or (advertised is not None and advertised.unix_path):
        _fail("the gateway cannot reach a Unix socket: name the engine's http://host:port")
    if options.tunnel and advertised is not None:
        _fail("--tunnel and --advertise are two ways to the engine: name one")
    if options.path and not options.tunnel:
        _fail("--path is of a tunnel: name --tunnel too")
    for wrong in grammar.paths(options.path):
        _fail(f"--path: {wrong}")
    if advertised is None and (engine.secure or engine.base) and not options.tunnel:
        _fail("an engine with https:// or with a path needs --advertise: the gateway would ask http://address:port")
    if advertised is None and is_loopback(engine.host) and not options.tunnel:
        _note("the gateway asks this machine's own address: the engine must listen there, and not on loopback alone")
    if not (options.token_file or token):
        _fail("there is no token: set RUNNER_AUTH_TOKEN, or name a --token-file")
    for flag in ("heartbeat", "look", "drain"):
        if not 0.05 <= getattr(options, flag) <= 86400:
            _fail(f"--{flag} must be a number of seconds, 0.05 to a day")
    made = Asked(
        gateway=_gateway(options.gateway),
        runner_id=options.id or f"{os.uname().nodename}:{engine.port}",
        runner_name=options.name,
        machine_type=options.machine,
        http_port=engine.port,
        url=advertised.url if advertised is not None else "",
        token=_secret(options.token_file, "--token-file", token),
        aliases=_pairs(options.alias, "--alias"),
        heartbeat_s=options.heartbeat,
        ping_s=min(MOST_PING_S, max(LEAST_PING_S, options.heartbeat)),
        look_s=options.look,
        drain_s=options.drain,
    )
    try:
        first = Register(
            runner_id=made.runner_id, runner_name=made.runner_name, machine_type=made.machine_type or None,
            http_port=made.http_port, protocol_version=1, auth_token="", url=made.url or None,
            status=RunnerStatus(health="starting", model_aliases=made.aliases),
        )  # fmt: skip
        from_runner(written(first))
    except ValueError as error:
        _fail(f"the gateway would not take this: {error}")
    return made


def _note(text: str) -> None:
    print(f"fastgw runner: {text}", file=sys.stderr)


def main(argv: Sequence[str], token: str, to_log: ToLog, to_front: ToFront, to_gpus: ToGpus) -> int:
    """Run the agent; ``token`` is what the environment has, ``to_log`` makes the log of a level, ``to_front`` who serves the
    requests of a tunnel, ``to_gpus`` what says how the GPUs are."""
    options = _parser().parse_args(list(argv))
    what = asked(options, token)
    adapters = _pairs(options.adapter, "--adapter")
    key = _secret(options.engine_key_file, "--engine-key-file")
    url = parse_engine_url(options.engine).url
    log = to_log(options.log_level)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        log.start(loop)
        limits = aiohttp.TCPConnector(limit=16)
        async with aiohttp.ClientSession(connector=limits, timeout=aiohttp.ClientTimeout(total=None)) as http:
            engine = LocalEngine(http, url, options.kind, key, adapters, not options.no_pull)
            front = to_front(url, options.kind, engine.key, tuple(options.path), log) if options.tunnel else None
            link = Link(http, engine, what, log, front=front, gpus=(lambda: None) if options.no_gpu else to_gpus())
            running = asyncio.current_task()
            assert running is not None
            asked_before = False

            def signalled() -> None:
                nonlocal asked_before
                if asked_before:
                    running.cancel()
                asked_before = True
                link.leave()

            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, signalled)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            log.info("runner", runner=what.runner_id, engine=url, gateway=what.gateway)
            try:
                await link.run()
            finally:
                if front is not None:
                    await front.stop()
            log.info("stopped")

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())
    except asyncio.CancelledError:
        pass
    finally:
        log.close()
    return 0
