"""``fastgw self-test``: whether this installation, or this binary, does on this machine what it is for.

A simulated engine and a gateway, each a process of its own as in earnest, one answer streamed through both, and SIGTERM in
the middle of it: the stream must come whole, nobody new be let in, and the gateway end with status 0. Reads no settings and
writes no files; listens on 127.0.0.1 alone. Invariant: however it ends, both processes have ended, within ``_ALL_S``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from typing import Final, NoReturn

from fastgw.demo import MODEL, DemoError, events

_ALL_S: Final = 30.0
_SAYS_BYTES: Final = 65536
# Slow enough for a signal in the middle.
_ENGINE: Final = ("--port", "0", "--model", MODEL, "--ttft-ms", "20", "--itl-ms", "10", "--ready-json")
_SIGNAL_AFTER: Final = 3  # pieces
_HEARD_S: Final = 2.0  # for a signal
_ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Process:
    """A function of ours in a process of its own, whose output can be read."""

    def __init__(self, work: Callable[[], int]) -> None:
        reading, writing = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            os.close(reading)
            _be(work, writing)
        os.close(writing)
        self._output = os.fdopen(reading, "rb", buffering=0)
        self._text = b""
        self.status: int | None = None

    def says(self, word: str) -> dict[str, object]:
        """The first JSON line of its output that has the member ``word``, or says it."""
        last = ""
        while True:
            *lines, self._text = self._text.split(b"\n")
            for line in lines:
                last = line.decode(errors="replace").strip() or last
                with contextlib.suppress(ValueError):
                    found = json.loads(line)
                    if isinstance(found, dict) and word in (*found, found.get("message")):
                        return dict(found)
            more = self._output.read(_SAYS_BYTES)
            if not more:
                raise DemoError(f"it ended before it was {word}; its last words: {last or 'none'}")
            self._text += more

    def ended(self) -> int:
        """Wait for its end; its exit code, or minus the signal that ended it."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self._output.close()
        return self.status

    def kill(self) -> None:
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.ended()


def _be(work: Callable[[], int], writing: int) -> NoReturn:
    code = 1
    try:
        for number in (signal.SIGALRM, *_ENDS):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.alarm(int(_ALL_S))  # who started it may be killed outright
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.close(writing)
        code = work()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run() -> int:
    """Run it all and say how it goes; returns the exit code, 1 when something was not as it should be."""
    running: list[_Process] = []

    def end(number: int, frame: object) -> NoReturn:
        # Here and at once: an exception could come where something is half made, or where it is swallowed.
        late = number == signal.SIGALRM
        why = f"it took longer than {_ALL_S:.0f} s" if late else f"it was ended by {signal.Signals(number).name}"
        os.write(2, f"fastgw self-test: error: {why}\n".encode())
        for process in running:
            if process.status is not None:
                continue
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(process.pid, signal.SIGKILL)
                os.waitpid(process.pid, 0)
        os._exit(1)

    for number in (signal.SIGALRM, *_ENDS):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as SIGHUP is under nohup
            signal.signal(number, end)
    signal.alarm(int(_ALL_S))
    try:
        _steps(running)
    except (DemoError, OSError, EOFError, ValueError, KeyError) as error:
        print(f"fastgw self-test: error: {error}", file=sys.stderr)
        return 1
    finally:
        signal.alarm(0)
        for process in running:
            process.kill()
    print("self-test: all is well")
    return 0


def _steps(running: list[_Process]) -> None:
    from fastgw import __version__, twins

    plane = "native" if twins.native() else "pure Python"
    _say("program", f"fastgw {__version__}, python {platform.python_version()}, {plane}")
    engine = _Process(_engine)
    running.append(engine)
    engine_url = str(engine.says("listening")["listening"])
    _say("engine", f"{engine_url}, process {engine.pid}")
    began = time.perf_counter()
    gateway = _Process(lambda: _gateway(engine_url))
    running.append(gateway)
    url = str(gateway.says("listening")["urls"])
    _say("gateway", f"{url}, process {gateway.pid}, listens after {(time.perf_counter() - began) * 1000:.0f} ms")
    pieces = asyncio.run(_stream(url, gateway.pid))
    _say("stream", f"{pieces} pieces, to its end, through the drain")
    status = gateway.ended()
    if status:
        raise DemoError(f"the gateway ended with status {status}")
    _say("drain", "status 0")
    os.kill(engine.pid, signal.SIGTERM)
    if engine.ended():
        raise DemoError(f"the engine ended with status {engine.status}")


def _engine() -> int:
    from fastgw.sim import cli

    return cli.main(list(_ENGINE))


def _gateway(engine_url: str) -> int:
    from fastgw.config import Config, EngineConfig
    from fastgw.serve import serve

    engines = (EngineConfig(url=engine_url, name="simulator", models=(MODEL,)),)
    return serve(Config(engines=engines, port=0, drain_timeout_s=10.0, log_format="json", access_log=False))


async def _stream(url: str, pid: int) -> int:
    """Read one answer; the gateway gets SIGTERM in the middle. How many pieces came."""
    pieces = 0
    asked = time.perf_counter()
    async for event in events(url, "Are you well?"):
        if not (event.get("choices") or [{}])[0].get("delta", {}).get("content"):
            continue
        pieces += 1
        if pieces == 1:
            _say("stream", f"first piece after {(time.perf_counter() - asked) * 1000:.0f} ms")
        if pieces == _SIGNAL_AFTER:
            _say("drain", "SIGTERM, in the middle of the stream")
            os.kill(pid, signal.SIGTERM)
        if pieces == 2 * _SIGNAL_AFTER:
            await _refused(url)
    if pieces <= 2 * _SIGNAL_AFTER:
        raise DemoError(f"the answer had {pieces} pieces")
    return pieces


async def _refused(url: str) -> None:
    """Nobody new is let in; a process that gets little of its machine takes a moment to hear a signal."""
    until = time.perf_counter() + _HEARD_S
    while time.perf_counter() < until:
        try:
            async for _ in events(url, "Is anybody there?"):
                break
        except (OSError, ValueError, EOFError):
            return
        await asyncio.sleep(_HEARD_S / 40)
    raise DemoError("a new request was let in during the drain")


def _say(what: str, how: str) -> None:
    print(f"{what:<9}{how}", flush=True)
