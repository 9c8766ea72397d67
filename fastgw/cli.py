"""The command line: one word chooses what runs. (The flags of settings are in ``flags``.)

Must never: import more than the chosen command needs (the gateway's start-up time is a feature), or repeat the value of
a flag in an error (it may be a key). Exit codes: 0 done, 1 could not start, 2 the command line or configuration is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from fastgw.flags import fail, flags_in, help_of, parser_for, suggest

if TYPE_CHECKING:
    import argparse

    from fastgw.agent.asked import GpuUse
    from fastgw.behind import Behind
    from fastgw.config import ConfigError, Loaded
    from fastgw.config.names import EngineKind, LogLevel
    from fastgw.observe.logs import LogWriter
    from fastgw.stats import EventLog

_HELP: Final = """\
usage: fastgw COMMAND [options]

A streaming gateway in front of LLM inference engines.

commands:
  serve         run the gateway
  demo          run the gateway and a simulated engine, and stream one answer
  sim           run the engine simulator alone
  bench         put load on any OpenAI-compatible server, and measure and check what comes
  runner        put the engine on this machine behind a gateway elsewhere
  gpu-exporter  tell Prometheus how the GPUs of this machine are
  top           show what a running gateway does, in a terminal
  keys          make, list, change and end API keys
  import        write a configuration from one of LiteLLM or TensorZero
  check         read the configuration and list every mistake; or ask the running gateway how it is
  self-test     start a gateway, stream one answer through it, drain it
  version       print the version and what runs

`fastgw COMMAND --help` shows a command's options (`serve` and `check`: those that matter most; `--help-all` has the rest).

examples:
  fastgw demo
  fastgw serve --engine http://127.0.0.1:8000
  VLLM_URL=http://127.0.0.1:8000 GATEWAY_API_KEYS=key1,key2 fastgw serve
  fastgw check --config fastgw.toml
  fastgw check --live
  fastgw bench --url http://127.0.0.1:8080 --model sim
  fastgw keys create --state-dir /var/lib/fastgw --name ada --daily-tokens 100000
  fastgw import litellm config.yaml --output fastgw.toml
"""

_CHECK: Final = """\
Read the configuration as `serve` would, list every mistake, and ask each engine once whether it can be spoken to so. Or ask the
gateway that runs with it how it is: exit code 0 when it is well, 1 when it is not.
"""
# Whatever a gateway answers, it lives: one that is full must not be ended for it.
_ASKS: Final[dict[str, tuple[str, Callable[[int], bool]]]] = {
    "--live": ("/liveness", lambda status: True),
    "--ready": ("/ready", lambda status: status == 200),
}
_LISTENS: Final = ("host", "port", "unix_socket", "tls_cert_file")
_ASK_S: Final = 2.0

def main(argv: Sequence[str]) -> int:
    """Run one command; returns the exit code. ``SystemExit`` leaves from ``--help`` and from a wrong command line."""
    if not argv or argv[0] in {"-h", "--help", "help"}:
        print(_HELP, end="")
        return 0
    if argv[0] in {"-V", "--version"}:
        return _version([])
    command = _COMMANDS.get(argv[0])
    if command is None:
        what = "option" if argv[0].startswith("-") else "command"
        hint = suggest(argv[0], [name for name in _COMMANDS if name != "docs"])
        fail("fastgw", f"there is no {what} {argv[0].partition('=')[0]}{hint}", "fastgw --help")
    return command(argv[1:])


def _serve(argv: Sequence[str]) -> int:
    import gc
    import signal

    # (A SIGHUP that comes during the start waits for `fastgw.serve`, which lets it in.)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    # Everything made until traffic comes is there to stay; looking for garbage in it costs five milliseconds of the start.
    gc.disable()
    from fastgw.early import import_msgspec

    try:
        import_msgspec()
        return _lasting(_serve_until_stopped, argv)
    finally:
        gc.enable()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])


def _lasting(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run a ``command`` that is to go on for months. What holds for each: no signal that says nothing to it ends it, and a
    crash of what is compiled says where it was (of the code, and of no data). SIGTERM waits until the command is there for
    it, and lets it in: the first process of a container would not be told of it, and be killed when its time is over, with
    all its streams."""
    import faulthandler
    import signal

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable(2)
    try:
        return command(argv)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _serve_until_stopped(argv: Sequence[str]) -> int:
    from fastgw.config.machine import origin

    comes_from = origin()  # (in the environment, and no settings)
    loaded = _load("serve", "Run the gateway until SIGTERM or SIGINT; SIGHUP has it read its settings again.", argv)
    if loaded is None:
        return 2
    if not loaded.config.control_tls:
        # (The data plane speaks TLS by itself. The control listener's is the loop's.)
        from fastgw.early import import_loop

        import_loop()
    if not _select(loaded.config.native):
        return 1
    from fastgw.app import StartError
    from fastgw.config import load
    from fastgw.serve import serve

    if comes_from.trial:
        from fastgw.several import could_go_on

        return could_go_on(loaded.config, comes_from.trial)
    try:
        return serve(loaded.config, lambda: load(flags_in("fastgw serve", argv)), comes_from)
    except StartError as error:
        print(f"fastgw: error: {error}", file=sys.stderr)
        return 1


def _check(argv: Sequence[str]) -> int:
    asked = [flag for flag in argv if flag in _ASKS]
    if asked and {"-h", "--help", "--help-all"}.isdisjoint(argv):
        return _ask(flags_in("fastgw check", [flag for flag in argv if flag not in _ASKS]), *_ASKS[asked[-1]])
    loaded = _load("check", _CHECK, [flag for flag in argv if flag not in _ASKS])
    if loaded is None:
        return 2
    from fastgw import checking
    from fastgw.config.render import summary

    print(summary(loaded))
    return checking.try_it(loaded.config, _ASK_S)


def _ask(flags: Mapping[str, object], path: str, well: Callable[[int], bool]) -> int:
    """Ask the gateway that runs with these settings; 0 = it is well.

    Of them no more is read than where it listens: one that has not taken over a file with mistakes serves as ever, and must
    not be ended for the file.
    """
    from fastgw.config import ConfigErrors, read_some
    from fastgw.net import live

    unreadable: list[ConfigError] = []
    try:
        host, port, unix_path, certificate = read_some(_LISTENS, flags, unreadable).values()
    except ConfigErrors as found:
        _tell(found.errors)
        return 2
    _tell(unreadable)
    if not port and not unix_path:
        print("fastgw check: error: with port 0 the system chooses where it listens; name the port", file=sys.stderr)
        return 2
    tls = bool(certificate)
    named = f"[{host}]" if ":" in host else host
    where = f"unix:{unix_path}" if unix_path else f"http{'s' if tls else ''}://{named}:{port}"
    try:
        status = live.ask(path, host=host, port=port, unix_path=unix_path, timeout_s=_ASK_S, tls=tls)
    except live.Unanswered as error:
        print(f"fastgw check: {where}{path}: {error}", file=sys.stderr)
        return 1
    print(f"{where}{path}: {status}")
    return 0 if well(status) else 1


def _self_test(argv: Sequence[str]) -> int:
    description = "Start a simulated engine and a gateway, stream one answer, and drain in the middle of it."
    _parse(parser_for("self-test", description), argv)
    from fastgw import selftest

    return selftest.run() if _select() else 1


def _demo(argv: Sequence[str]) -> int:
    parser = parser_for("demo", "Run the gateway and a simulated engine, and stream one answer through them.",
                     "examples:\n  fastgw demo\n  fastgw demo --once --prompt 'Why is the sky blue?'\n")  # fmt: skip
    parser.add_argument("--once", action="store_true", help="end after the first answer")
    parser.add_argument("--prompt", metavar="TEXT", default="What does a gateway do?", help="what to ask (%(default)s)")
    parser.add_argument("--port", metavar="N", help="the gateway's port (default: 8080, or a free one when that is taken)")
    options = _parse(parser, argv)
    import fastgw.demo as demo
    from fastgw.config.address import parse_port

    try:
        port = None if options.port is None else 0 if options.port == "0" else parse_port(options.port)
    except ValueError as error:
        fail(parser.prog, f"--port: {error}", f"{parser.prog} --help")
    return demo.run(prompt=options.prompt, port=port, once=options.once) if _select() else 1


def _sim(argv: Sequence[str]) -> int:
    from fastgw.sim import cli

    return cli.main(list(argv))


def _bench(argv: Sequence[str]) -> int:
    from fastgw.config.machine import client_key

    if not _select():
        return 1
    from fastgw.bench import cli

    return cli.main(argv, client_key())


def _runner(argv: Sequence[str]) -> int:
    return _lasting(_run, argv)


def _run(argv: Sequence[str]) -> int:
    from fastgw.config import read_one

    if not _select():
        return 1
    from fastgw.agent import cli
    from fastgw.observe.libraries import hear
    from fastgw.observe.logs import to_stderr
    from fastgw.stats import Stats

    def to_log(level: LogLevel) -> LogWriter:
        log = to_stderr(level, "auto", Stats())
        hear(log)
        return log

    def to_front(url: str, kind: EngineKind, key: str, paths: tuple[str, ...], log: EventLog) -> Behind:
        import resource
        from contextlib import suppress

        from fastgw import behind
        from fastgw.config import EngineConfig

        with suppress(ValueError, OSError):  # each request under way has a connection to the engine
            resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

        return behind.Behind(behind.config_for(EngineConfig(url=url, name="engine", kind=kind, api_key=key), paths), log, True)

    def to_gpus() -> Callable[[], GpuUse | None]:
        from fastgw.gpu.watch import watch
        from fastgw.stats import NullLog

        # (A machine without GPUs is as good, and nobody need be told of it. What changes is told: not too often.)
        return watch((), 0, NullLog(), fresh_s=10.0).use

    return cli.main(argv, str(read_one("runner_auth_token")), to_log, to_front, to_gpus)


def _gpu_exporter(argv: Sequence[str]) -> int:
    return _lasting(_export, argv)


def _export(argv: Sequence[str]) -> int:
    if not _select():
        return 1
    from fastgw.config import read_some
    from fastgw.gpu import cli
    from fastgw.observe.logs import to_stderr
    from fastgw.stats import Stats

    return cli.main(argv, read_some, lambda level: to_stderr(level, "auto", Stats()))


def _top(argv: Sequence[str]) -> int:
    from fastgw.config.machine import variable

    if not _select():
        return 1
    from fastgw.top import cli

    return cli.main(argv, variable)


def _keys(argv: Sequence[str]) -> int:
    from fastgw.config import read_one
    from fastgw.store import cli

    return cli.main(argv, str(read_one("state_dir")))


def _import(argv: Sequence[str]) -> int:
    from fastgw.config.machine import variable
    from fastgw.importing import cli

    return cli.main(argv, variable)


def _version(argv: Sequence[str]) -> int:
    _parse(parser_for("version", "Print the version of fastgw, of Python and of uvloop, and whether native code runs."), argv)
    from fastgw import __version__, twins

    if not _select():
        return 1
    import platform

    import uvloop

    print(f"fastgw {__version__}")
    print(f"python {platform.python_version()}")
    print(f"uvloop {uvloop.__version__}")  # type: ignore[attr-defined]
    print(f"native: {'yes' if twins.native() else 'no'}")
    return 0


def _select(mode: str | None = None) -> bool:
    """Choose the twin, before any module that has two is imported (None: as asked for). False = there is none: it is told."""
    from fastgw import twins

    try:
        twins.select(twins.asked() if mode is None else mode)
    except (ImportError, ValueError) as error:
        print(f"fastgw: error: {error}", file=sys.stderr)
        return False
    return True


def _docs(argv: Sequence[str]) -> int:
    """Write the generated pages (for those who work on fastgw; not in the help)."""
    parser = parser_for("docs", "Write the pages that are generated from tables.")
    parser.add_argument("--write", metavar="DIR", required=True, help="the folder to write to")
    folder = _parse(parser, argv).write
    from pathlib import Path

    from fastgw.config.render import errors_markdown, markdown
    from fastgw.exchange.drawn import phases_markdown

    pages = {"configuration.md": markdown, "errors.md": errors_markdown, "phases.md": phases_markdown}
    for name, text in pages.items():
        Path(folder, name).write_text(text(), encoding="utf-8")
    return 0


_COMMANDS: Final[dict[str, Callable[[Sequence[str]], int]]] = {
    "serve": _serve,
    "demo": _demo,
    "sim": _sim,
    "bench": _bench,
    "runner": _runner,
    "gpu-exporter": _gpu_exporter,
    "top": _top,
    "keys": _keys,
    "import": _import,
    "check": _check,
    "self-test": _self_test,
    "version": _version,
    "docs": _docs,
}


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    options, unknown = parser.parse_known_args(list(argv))
    if unknown:
        name = unknown[0].partition("=")[0]
        known = [flag for action in parser._actions for flag in action.option_strings]
        if name.startswith("-"):
            fail(parser.prog, f"there is no option {name}{suggest(name, known)}", f"{parser.prog} --help")
        fail(parser.prog, "there is an argument that belongs to no option", f"{parser.prog} --help")
    return options


def _load(command: str, description: str, argv: Sequence[str]) -> Loaded | None:
    """The configuration, or None after its mistakes were printed."""
    program = f"fastgw {command}"
    if not {"-h", "--help", "--help-all"}.isdisjoint(argv):
        print(help_of(command, description, whole="--help-all" in argv), end="")
        raise SystemExit(0)
    flags = flags_in(program, argv)
    from fastgw.config import ConfigErrors, load_with_origins

    try:
        return load_with_origins(flags)
    except ConfigErrors as found:
        _tell(found.errors)
        return None


def _tell(errors: Sequence[ConfigError]) -> None:
    if errors:
        print(f"fastgw: {len(errors)} mistake{'s' if len(errors) > 1 else ''} in the configuration:", file=sys.stderr)
    for error in errors:
        print(f"  {error}", file=sys.stderr)
