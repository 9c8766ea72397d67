"""``fastgw gpu-exporter``: the command line. Runs until SIGTERM or SIGINT, then ends with 0.

Exit codes: 0 done, 1 it could not listen, 2 the command line or a variable is wrong. A driver that is not there is no reason to
end: it may come, and until then the exporter says so.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, Protocol

import uvloop

from fastgw.config import ConfigErrors
from fastgw.config.address import is_loopback
from fastgw.config.names import GPU_NAMES, LOG_LEVELS, LogLevel
from fastgw.gpu.reading import MOST_PROCESSES
from fastgw.gpu.server import Exporter
from fastgw.gpu.watch import watch
from fastgw.net.listener import BindError
from fastgw.stats import EventLog

_EXAMPLES: Final = """\
examples:
  fastgw gpu-exporter
  fastgw gpu-exporter --names seed,dcgm
  GPU_EXPORTER_PORT=9400 GPU_EXPORTER_HOST=0.0.0.0 fastgw gpu-exporter --names dcgm
  curl http://127.0.0.1:9101/metrics

It listens on loopback alone until it is told otherwise, and serves /metrics and /health. docs/gpu.md has all metrics.
"""


class Log(EventLog, Protocol):
    """A log that is written from a thread of its own."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None: ...

    def close(self) -> None: ...


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"fastgw gpu-exporter: error: {message} (see fastgw gpu-exporter --help)", file=sys.stderr)
        raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fastgw gpu-exporter",
        usage="fastgw gpu-exporter [options]",
        description="Tell Prometheus what NVIDIA's driver says of the GPUs of this machine, until SIGTERM or SIGINT.",
        epilog=_EXAMPLES,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--host", metavar="TEXT", help="the address to listen at (default 127.0.0.1; env GPU_EXPORTER_HOST)")
    add("--port", metavar="N", help="the port (default 9101, 0 = any that is free; env GPU_EXPORTER_PORT)")
    add("--names", metavar="A,B", help=f"how series are named: {', '.join(GPU_NAMES)} (default seed; env FASTGW_GPU_NAMES)")
    add("--processes", metavar="N", help=f"processes told for each GPU, those with most memory, {MOST_PROCESSES} at most; "
        "0 = none (default 32; env FASTGW_GPU_PROCESSES)")  # fmt: skip
    add("--allowed-hosts", metavar="A,B", help="names under which it may be asked, beside addresses and this machine's own")
    add("--log-level", choices=LOG_LEVELS, default="info", help="what to log (default info)")
    return parser


_SETTINGS: Final = {
    "host": "gpu_exporter_host", "port": "gpu_exporter_port", "names": "gpu_names", "processes": "gpu_processes",
    "allowed_hosts": "allowed_hosts",
}  # fmt: skip
Read = Callable[[Sequence[str], Mapping[str, object]], Mapping[str, Any]]


def main(argv: Sequence[str], read: Read, to_log: Callable[[LogLevel], Log]) -> int:
    """Run the exporter; ``read`` gives settings as flags and all other places say, ``to_log`` makes the log of a level."""
    options = _parser().parse_args(list(argv))
    flags = {_SETTINGS[name]: text for name, text in vars(options).items() if name in _SETTINGS and text is not None}
    try:
        settings = read(list(_SETTINGS.values()), flags)
    except ConfigErrors as found:
        for error in found.errors:
            told = str(error).replace("--gpu-exporter-", "--").replace("--gpu-", "--")
            print(f"fastgw gpu-exporter: error: {told} (see fastgw gpu-exporter --help)", file=sys.stderr)
        return 2
    log = to_log(options.log_level)
    names = settings["gpu_names"] or GPU_NAMES[:1]
    exporter = Exporter(
        watch(names, settings["gpu_processes"], log), log, host=settings["gpu_exporter_host"],
        port=settings["gpu_exporter_port"], hosts=settings["allowed_hosts"],
    )  # fmt: skip

    async def run() -> None:
        loop = asyncio.get_running_loop()
        ends = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ends.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        url = await exporter.start()
        log.start(loop)
        log.info("listening", urls=url, names=",".join(names), pid=os.getpid())
        if not is_loopback(settings["gpu_exporter_host"]):
            log.info("anybody who reaches that address can read it: there is no key")
        await ends.wait()
        await exporter.stop()
        log.info("stopped")

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())
    except BindError as error:
        print(f"fastgw: error: {error}", file=sys.stderr)
        return 1
    finally:
        log.close()
    return 0
