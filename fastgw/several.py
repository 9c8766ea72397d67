"""What this process is of a gateway of several processes, and what signals mean to each: the control process passes on what
concerns all, and a worker does what it says.

    SIGTERM, SIGINT   the control process: all drain. A worker: it drains alone, and another takes its place
    SIGHUP            the control process reads its settings again, and has the workers read theirs
    SIGUSR1           all go on in new log files
    SIGUSR2           the control process is started anew in its own place, of the program as it lies on the disk now, and new
                      workers take the places of those that are there, one after the other
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from fastgw.app import Gateway, StartError
from fastgw.config import Config
from fastgw.config.machine import Origin, environment_again, environment_of_trial, environment_of_worker
from fastgw.observe.logs import LogWriter
from fastgw.successor import command
from fastgw.upgrade.refusals import NotHanded
from fastgw.workers.part import Part

if TYPE_CHECKING:
    import subprocess

    from fastgw.reload import Reloader
    from fastgw.workers.crew import Crew


TRIAL_S: Final = 60.0  # for a program that is tried to read its settings
OTHERWISE: Final = 3  # its exit code where it does not go on from this version
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def part_of(config: Config, origin: Origin, log: LogWriter) -> Part | None:
    """None = it is all there is. Raises StartError."""
    if origin.worker:
        from fastgw.workers.member import Member

        return Member(origin.worker, log)
    if config.workers == 1 and origin.again < 0:
        return None
    from fastgw.workers import again
    from fastgw.workers.crew import Crew

    left: again.Left | None = None
    if origin.again >= 0:
        import msgspec

        try:
            left = again.find(origin.again)
        except (OSError, msgspec.MsgspecError) as error:
            raise StartError("what the program before this one has left cannot be read") from error
    return Crew(config.workers, spawn=_started, log=log, left=left)


def could_go_on(config: Config, speaks: str) -> int:
    """The exit code of a trial: 0 = the program of now could go on where another is that ``speaks`` so."""
    from fastgw.loading import import_for
    from fastgw.workers.crew import Crew
    from fastgw.workers.words import SPEAKS

    if speaks != SPEAKS or Crew is None:
        return OTHERWISE
    import_for(config, start=True)
    return 0


def _started(fds: Sequence[int]) -> subprocess.Popen[bytes]:
    import subprocess

    environment = environment_of_worker(fds)
    return subprocess.Popen(command(), env=environment, pass_fds=fds)  # noqa: S603 - what this process was started with


class Renewal:
    """SIGUSR2 to a control process. See the head of this file. What may fail does so before anything has changed: the settings
    are read by a program that is only tried, and what was used is written down."""

    def __init__(self, log: LogWriter, crew: Crew) -> None:
        self._log = log
        self._crew = crew
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """SIGUSR2 has come."""
        if self._task is not None and not self._task.done():
            self._log.warning("no second upgrade now: one is under way")
        elif not self._crew.may_renew():
            self._log.warning("no upgrade now: the gateway starts or ends, or workers of the last one have something under way")
        else:
            self._task = asyncio.get_running_loop().create_task(self._renew(self._crew), name="upgrade")

    async def _renew(self, crew: Crew) -> None:
        from fastgw.workers.again import leave

        why = await self._tried()
        if not why:
            try:
                await crew.pause()
            except NotHanded as error:
                why = str(error)
        if why:
            hint = "the log has what the new program said; look with `fastgw check`, and send SIGUSR2 again"
            self._log.error("upgrade: there was none, and all is as it was", reason=why, hint=hint)
            return
        left = crew.leave()
        self._log.info("upgrade: the control process starts anew", workers=len(left.workers))
        self._log.close()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            fd = leave(left)
            for one in left.fds():
                os.set_inheritable(one, True)
            os.execve(command()[0], command(), environment_again(fd))  # noqa: S606 - what this process was started with
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            self._log.start(asyncio.get_running_loop())
            self._log.error("upgrade: there was none, and all is as it was", reason=error.strerror or "")
            await crew.go_on()

    async def _tried(self) -> str:
        """Have the program of now read its settings; why it could not go on here, "" = it could."""
        from fastgw.workers.words import SPEAKS

        program, *arguments = command()
        try:
            process = await asyncio.create_subprocess_exec(program, *arguments, env=environment_of_trial(SPEAKS))
            async with asyncio.timeout(TRIAL_S):
                status = await process.wait()
        except OSError as error:
            return f"the program cannot be started: {error.strerror}"
        except TimeoutError:
            process.kill()
            return f"the new program had not read its settings within {TRIAL_S:g} s"
        if status == OTHERWISE:
            return "the new program is of a version that does not go on from this one: restart instead"
        return "" if not status else "the new program cannot begin"


class Orders:
    """What the control process has a worker do (``workers.part.Signals``), and what signals mean to both."""

    def __init__(
        self, gateway: Gateway, drain: asyncio.Event, at_once: asyncio.Event, reopen: Callable[[], None], reloader: Reloader
    ) -> None:
        self._gateway = gateway
        self._drain = drain
        self._at_once = at_once
        self._reloader = reloader
        self.reopen = reopen
        self.retired = asyncio.Event()
        self.seconds = -1.0

    def leave(self, part: Part) -> None:
        """This worker is to end, and others take who comes here: what is here has as long as in a drain. Twice: at once."""
        if self.retired.is_set():
            self.drain(at_once=True)
        part.leaves()
        self.retire(self._gateway.config.drain_timeout_s)

    def signals(self, part: Part, log: LogWriter) -> dict[signal.Signals, Callable[[], None]]:
        """Those that mean something else than to a gateway of one process."""
        if not part.operates:
            part.heed(self)
            ends = dict.fromkeys((signal.SIGTERM, signal.SIGINT), partial(self.leave, part))
            return {**ends, signal.SIGHUP: _told_by_control, signal.SIGUSR2: _told_by_control}

        def reopen() -> None:
            self.reopen()
            part.reopen()

        renewal = Renewal(log, part)  # type: ignore[arg-type]
        return {signal.SIGUSR1: reopen, signal.SIGUSR2: renewal.ask}

    def drain(self, at_once: bool) -> None:
        self._drain.set()
        if at_once:
            self._at_once.set()

    def retire(self, seconds: float) -> None:
        self.seconds = seconds
        self.retired.set()

    async def follow(self) -> list[str]:
        _, found = await self._reloader.again()
        problems: Any = found.get("problems", ())
        return [str(one) for one in problems]


def _told_by_control() -> None:
    """(By a word: the signal may have come to both, from a terminal.)"""
