"""SIGUSR2: the program is started again, and the new process takes this one's place while streams go on here.

    asked ----> started ----> ready ----> handed over (``app.Gateway.hand_over``) ----> this one ends what it has
                   |            |               |
                   +------------+---------------+----> it failed: told to the log; everything is as it was

The new process is the same program with the same arguments and environment, as it lies on the disk now; it reads its settings
anew. Owns: that process until it is the gateway, and one try at a time. Must never: end the service with it. Where the new
process does not come that far, this one goes on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from fastgw.app import Gateway
from fastgw.config.machine import ends_with_us, environment_of_successor
from fastgw.errors import described
from fastgw.net.supervisor import Supervisor
from fastgw.stats import EventLog
from fastgw.upgrade.refusals import NotHanded

if TYPE_CHECKING:
    import subprocess

START_S: Final = 120.0  # for the new process to read its settings, load certificates and ask its engines
ENDS_S: Final = 5.0  # for one that is not to take over to end, before it is killed
LOOK_S: Final = 0.01


def command() -> list[str]:
    """What this process was started with, by the name that it was called by: that may lead to another folder by now, where
    ``sys.executable`` is what it led to then (a link is followed by the frozen program, and by the first line of a script)."""
    name, *rest = sys.argv
    frozen = getattr(sys, "frozen", False)
    if frozen or sys.orig_argv[1:2] == [name]:
        there = [name] if "/" in name else [os.path.join(folder, name) for folder in os.get_exec_path()]
        for path in there:
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return [path, *rest]
    return [sys.executable, *(rest if frozen else sys.orig_argv[1:])]


class Successor:
    """See the head of this file. ``handed`` is called when the other one is the gateway."""

    def __init__(self, gateway: Gateway, *, log: EventLog, manager: Supervisor, handed: Callable[[], None]) -> None:
        self._gateway = gateway
        self._log = log
        self._manager = manager
        self._handed = handed
        self._closed = self._ready = False
        self._alone = ends_with_us()  # (later its parent may have gone)
        self._again = False  # settings were read again meanwhile, which the new process may have read before
        self._ending = False  # a process that is not to take over is brought to its end, and all that it took is taken back
        self._task: asyncio.Task[None] | None = None

    def ready(self) -> None:
        """The gateway takes requests."""
        self._ready = True

    def ask(self) -> None:
        """SIGUSR2 has come."""
        if self._closed or not self._ready:
            self._log.warning("no upgrade now: the gateway starts, or ends")
        elif self._task is not None:
            self._log.warning("no second upgrade now: one is under way")
        elif self._alone:
            self._log.warning("no upgrade: whoever started this process takes its end for the end of the service; restart that")
        else:
            self._task = asyncio.get_running_loop().create_task(self._upgrade(), name="upgrade")

    def read_again(self) -> None:
        """Settings are read again here."""
        self._again = True

    def close(self) -> None:
        """It drains, or has handed over."""
        self._closed = True

    async def stop(self) -> None:
        """End one that is under way: it is the drain's turn."""
        self.close()
        if self._task is not None:
            if not self._ending:
                self._task.cancel()
            await asyncio.wait({self._task})

    async def _upgrade(self) -> None:
        from fastgw.net.process_line import ProcessLine
        from fastgw.upgrade.words import PROTOCOL, Ready, read

        line, there = ProcessLine.pair()
        self._again = False
        process: subprocess.Popen[bytes] | None = None
        try:
            with there:
                process = _started(there.fileno())
            self._log.info("upgrade: the new process starts", pid=process.pid)
            async with asyncio.timeout(START_S):
                ready = read(await line.receive())
            if not isinstance(ready, Ready) or ready.protocol != PROTOCOL:
                raise NotHanded("the new program is of a version that does not take over from this one: restart instead")
            await self._gateway.hand_over(line, partial(self._ended, process))
        except BaseException as error:
            line.close()
            await self._failed(error, process)
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        finally:
            self._task = None
            self._ending = False
        self.close()
        if self._again:
            with suppress(ProcessLookupError):
                os.kill(ready.pid, signal.SIGHUP)
        self._manager.succeeded(ready.pid)
        self._log.info("upgrade: the new process is the gateway", pid=ready.pid, version=ready.version)
        self._handed()

    async def _failed(self, error: BaseException, process: subprocess.Popen[bytes] | None) -> None:
        status = await self._ended(process) if process is not None else None
        self._log.error(
            "upgrade: there was none, and all is as it was",
            reason=_why(error),
            **({} if status is None else {"status": status}),
            hint="the log has what the new process said; look with `fastgw check`, and send SIGUSR2 again",
        )

    async def _ended(self, process: subprocess.Popen[bytes]) -> int | None:
        """When it has, by itself or not: its status, None where it was killed."""
        self._ending = True
        for _ in range(int(ENDS_S / LOOK_S)):  # (it ends by itself when nobody is at the other end)
            if (status := process.poll()) is not None:
                return status
            if self._closed:  # (a drain is not held for it)
                break
            await asyncio.sleep(LOOK_S)
        process.kill()
        await asyncio.to_thread(process.wait)
        return None


def _why(error: BaseException) -> str:
    import msgspec

    from fastgw.net.process_line import LineGone

    if isinstance(error, LineGone):
        return "the new process ended before it was ready"
    if isinstance(error, TimeoutError):
        return f"the new process was not ready within {START_S:g} s"
    if isinstance(error, msgspec.MsgspecError):
        return "the new program says what this version does not know: restart instead"
    if isinstance(error, asyncio.CancelledError):
        return "the gateway drains"
    return str(error) if isinstance(error, NotHanded | OSError) else described(error)


def _started(fd: int) -> subprocess.Popen[bytes]:
    import subprocess

    environment = environment_of_successor(fd)
    return subprocess.Popen(command(), env=environment, pass_fds=(fd,))  # noqa: S603 - what this process was started with
