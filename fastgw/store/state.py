"""The gateway's side of the store: opened at start, then used by one thread, so that no call ever holds the loop.

Owns: the thread, what of it the loop is told, and the watch for keys that others change (what is done about a disk that
fails stands in ``folder``). Must never: call SQLite in the loop's thread after :meth:`State.start`, or let a failing disk
stop traffic. Invariant: a batch of usage is committed whole or not at all, and its rows are totals, so whoever is told
that a batch failed hands over its rows again, later and larger, and nothing is counted twice.

Failure is a state: ``failing`` with a ``reason``, from the first thing that cannot be written to the next that can; the log
tells of both, once.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Concatenate, Final, ParamSpec, TypeVar

from fastgw.limits.key import Batch, KeyRecord, UsageRow
from fastgw.limits.purse import Asked, Sums
from fastgw.stats import EventLog
from fastgw.store import spending
from fastgw.store.database import Database
from fastgw.store.folder import Folder, Loaded
from fastgw.store.place import Note
from fastgw.store.schema import CorruptState, StateError, Unavailable

LOOK_S: Final = 0.25  # for changes by others: they are due within a second
RUN_S: Final = 10.0
MAX_WAITING: Final = 64  # calls of `run` that the thread has not done
TOLD_AT_ONCE: Final = 50  # changed keys: a fraction of a millisecond of the loop
_TAKEN_S: Final = 5.0  # for the loop to take them
_WRITE_BUSY_S: Final = 1.0  # a batch that fails comes again; the watch for changes must not wait for it for long
_CALL_BUSY_S: Final = 5.0

P = ParamSpec("P")
T = TypeVar("T")


class State:
    """The state of one gateway. All methods belong to the loop's thread; ``open`` comes first, ``start`` next."""

    def __init__(self, folder: str, *, log: EventLog, on_corrupt: str = "refuse", flush_s: float = 1.0) -> None:
        self.folder = folder
        self.flush_s = flush_s  # how often the owner hands over what changed
        self.failing = False
        self.reason = ""
        self._log = log
        self._file = Folder(folder, set_aside=on_corrupt == "set_aside")
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._keys_changed: Callable[[list[KeyRecord]], None] | None = None
        self._writing = False
        self._waiting = 0
        self._closed = False
        self._last_ok = True
        # The thread's own:
        self._told = ""
        self._blind = False  # it can be written, and what is in it cannot be read
        self._wrote_at = 0.0
        self._probe_at = 0.0

    def ahead(self) -> list[KeyRecord]:
        """Read the keys beside the process that has the folder still, before :meth:`open`, which tells what has changed since;
        blocks. Raises :class:`StateError`."""
        return self._file.ahead()

    def open(self, day: int) -> Loaded:
        """Take the folder and read it; blocks. A disk that cannot be written (or read) is not an error: ``failing``.

        ``day`` counts from 1970-01-01 UTC. Raises :class:`StateError` with one line for the operator: another gateway has
        the folder, it is no folder, or its file is damaged (unless it is to be set aside), foreign or too new.
        """
        file = self._file
        try:
            loaded = file.open(day)
        except BaseException:
            file.close()
            raise
        self._log_notes(file.take_notes())
        if file.reason:
            self._told = file.reason
            self._set_failing(file.reason)
        return loaded

    def start(self, loop: asyncio.AbstractEventLoop, keys_changed: Callable[[list[KeyRecord]], None]) -> None:
        """Begin to write and to watch; ``keys_changed`` is called in the loop, with deleted keys among them."""
        self._loop = loop
        self._keys_changed = keys_changed
        self._thread = threading.Thread(target=self._work, name="fastgw-state", daemon=True)
        self._thread.start()

    def write(self, rows: Sequence[UsageRow], done: Callable[[bool], None], spent: Batch | None = None) -> bool:
        """Hand over one batch, and what was spent, which are not changed afterwards; ``done`` is called in the loop: were they
        committed?

        False = the batch before is still being written, or the state is closed: nothing was taken.
        """
        if self._writing or self._closed or self._thread is None:
            return False
        self._writing = True
        self._jobs.put(lambda: self._write(rows, done, spent))
        return True

    def tell_again(self) -> None:
        """Have all keys told, as if each had changed: what holds for those that say nothing is another now."""
        if not self._closed and self._thread is not None:
            self._jobs.put(self._again)

    def load(self, day: int, done: Callable[[list[UsageRow] | None], None]) -> bool:
        """Read what there is of a day, behind all that was handed over before; ``done`` is called in the loop, with None where
        it cannot be read. False = the state is closed: it will not be called."""
        if self._closed or self._thread is None:
            return False
        self._jobs.put(lambda: self._load(day, done))
        return True

    def sums(self, asked: Sequence[Asked], done: Callable[[Sums | None], None]) -> bool:
        """What some budgets have seen; as :meth:`load`."""
        if self._closed or self._thread is None:
            return False
        self._jobs.put(lambda: self._sums(asked, done))
        return True

    def sums_at_start(self, asked: Sequence[Asked]) -> Sums | None:
        """The same, before :meth:`start`; blocks."""
        try:
            return spending.sums(self._file.ready(), asked)
        except Exception as error:
            self._told = str(self._file.failed("cannot read what was spent", error))
            self._set_failing(self._told)
            return None

    async def run(self, function: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``function(database, ...)`` in the thread. Key changes that it makes are told before this returns.

        Raises what ``function`` raises, and :class:`StateError` where the store fails, is closed, has too much to do, or
        does not answer within ten seconds (a change may then have been made all the same).
        """
        if self._closed or self._thread is None:
            raise StateError("the state is closed")
        if self._waiting >= MAX_WAITING:
            raise Unavailable("the state has too many calls to do; try again")
        self._waiting += 1
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put(lambda: self._call(lambda database: function(database, *args, **kwargs), answer))
        try:
            async with asyncio.timeout(RUN_S):
                return await answer
        except TimeoutError:
            raise Unavailable(f"the state did not answer within {RUN_S:g} s") from None

    async def close(self, wait_s: float = 5.0, rows: Sequence[UsageRow] = ()) -> bool:
        """Do what is under way, write ``rows`` and release the folder; waits at most ``wait_s``.

        True = all was written. After False usage of the last moments may be lost, or the thread still tries. Also closes
        what was opened and never started.
        """
        if self._closed:
            return self._last_ok
        self._closed = True
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            self._file.close()
            return not rows
        if rows:
            self._jobs.put(lambda: self._write(rows, _ignore, None, last=True))
        ended: asyncio.Future[None] = loop.create_future()
        self._jobs.put(lambda: self._end(ended))
        self._jobs.put(None)
        try:
            async with asyncio.timeout(wait_s):
                await ended
        except TimeoutError:
            self._log.warning("the state was not written to the end", waited_s=wait_s)
            return False
        thread.join(wait_s)  # its last line has run
        return self._last_ok

    # --- in the loop, called by the thread
    def _log_notes(self, notes: Sequence[Note]) -> None:
        for note in notes:
            self._log.warning(note.message, **note.fields)

    def _log_changed(self, keys: int) -> None:
        self._log.info("keys changed", keys=keys)

    def _set_failing(self, reason: str) -> None:
        self.reason = reason
        if not self.failing:
            self.failing = True
            self._log.warning("the state cannot be written; traffic goes on, usage is kept in memory", reason=reason)

    def _set_well(self) -> None:
        self.reason = ""
        if self.failing:
            self.failing = False
            self._log.info("the state is written again")

    def _written(self, done: Callable[[bool], None], ok: bool) -> None:
        self._writing = False
        self._last_ok = ok
        done(ok)

    def _answered(self, answer: asyncio.Future[T], result: T | None, error: BaseException | None) -> None:
        self._waiting -= 1
        if answer.done():
            return  # nobody waits any more
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    # --- in the thread
    def _post(self, function: Callable[..., None], *args: object) -> bool:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed: nobody is there to be told
            return False
        return True

    def _work(self) -> None:
        look_at = monotonic()
        while True:
            try:
                job = self._jobs.get(timeout=max(0.0, look_at - monotonic()))
            except Empty:
                pass
            else:
                if job is None:
                    return
                job()
            if monotonic() >= look_at:
                self._look()
                look_at = monotonic() + LOOK_S

    def _failed(self, what: str, error: Exception) -> StateError:
        told = self._file.failed(what, error)
        if str(told) != self._told:
            self._told = str(told)
            self._post(self._set_failing, self._told)
        return told

    def _well(self) -> None:
        if self._told and not self._blind:
            self._told = ""
            self._post(self._set_well)

    def _write(
        self, rows: Sequence[UsageRow], done: Callable[[bool], None], spent: Batch | None, *, last: bool = False
    ) -> None:
        self._wrote_at = monotonic()
        try:
            self._file.ready(at_once=last).wait_for_others(_CALL_BUSY_S if last else _WRITE_BUSY_S)
            self._file.write(rows, spent)
        except Exception as error:
            self._failed("cannot write usage", error)
            self._post(self._written, done, False)
        else:
            self._well()
            self._post(self._written, done, True)

    def _load(self, day: int, done: Callable[[list[UsageRow] | None], None]) -> None:
        rows: list[UsageRow] | None = None
        try:
            database = self._file.ready()
            database.wait_for_others(_WRITE_BUSY_S)
            rows = database.load_usage(day)
        except Exception as error:
            self._failed("cannot read usage", error)
        else:
            self._look()  # keys that were not known before this come first
        self._post(done, rows)

    def _sums(self, asked: Sequence[Asked], done: Callable[[Sums | None], None]) -> None:
        found: Sums | None = None
        try:
            database = self._file.ready()
            database.wait_for_others(_WRITE_BUSY_S)
            found = spending.sums(database, asked)
        except Exception as error:
            self._failed("cannot read what was spent", error)
        self._post(done, found)

    def _call(self, function: Callable[[Database], T], answer: asyncio.Future[T]) -> None:
        result: T | None = None
        problem: Exception | None = None
        if not answer.cancelled():
            try:
                database = self._file.ready(at_once=True)
                database.wait_for_others(_CALL_BUSY_S)
                result = function(database)
            except Exception as error:
                theirs = not isinstance(error, sqlite3.Error | OSError | StateError)
                problem = error if theirs else self._failed("cannot use the state", error)
            self._look(own=True)
        self._post(self._answered, answer, result, problem)

    def _look(self, *, own: bool = False) -> None:
        """Tell of changed keys; while failing, see whether it can be written again."""
        file = self._file
        now = monotonic()
        try:
            if self._told and now >= self._probe_at and now - self._wrote_at > 2 * self.flush_s:
                self._probe_at = now + 1.0
                file.ready().wait_for_others(_WRITE_BUSY_S)
                file.probe()
                self._well()
            if self._told and file.down:
                return
            changed = file.changed(own=own)
            file.prune()
        except Exception as error:
            self._blind = isinstance(self._failed("cannot read the state", error), CorruptState)
        else:
            self._blind = False
            self._tell(changed)
        if file.notes:
            self._post(self._log_notes, file.take_notes())

    def _again(self) -> None:
        self._file.forget_told()
        self._look()

    def _tell(self, changed: list[KeyRecord]) -> None:
        """In pieces, each when the loop has taken the one before: all keys at once (another file) would hold it for long."""
        taken = threading.Event()
        for first in range(0, len(changed), TOLD_AT_ONCE):
            taken.clear()
            if not self._post(self._take, changed[first : first + TOLD_AT_ONCE], taken):
                return
            if first + TOLD_AT_ONCE < len(changed):
                taken.wait(_TAKEN_S)
        if changed:
            self._post(self._log_changed, len(changed))

    def _take(self, changed: list[KeyRecord], taken: threading.Event) -> None:
        assert self._keys_changed is not None
        try:
            self._keys_changed(changed)
        finally:
            taken.set()

    def _end(self, ended: asyncio.Future[None]) -> None:
        self._file.close()
        self._post(_done, ended)


def _ignore(ok: bool) -> None:
    """The outcome of the last batch is what ``close`` returns."""


def _done(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
