"""Which descriptors are ready: one epoll of the data plane's own, nested in the loop's.

Why not the loop's own watchers: libuv stops watching a descriptor that reports an error, so that data and a reset that
arrive together would show the data and never the reset; a watcher costs a callback object and a context switch of
``contextvars`` for each event; and what the kernel said in *this* look cannot be asked for, which is what tells whether
an idle connection has been silent (see ``upstream/pool.py``). The loop watches one descriptor, the epoll's. (The
compiled twin may turn the two round.)

Level-triggered: what is not read now is reported again. Invariant: a descriptor is registered only while something is
wanted of it (an error on one that is merely held would be reported for ever), and it is unregistered before it closes.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Callable
from typing import Final

from fastgw.net.clock import monotonic
from fastgw.net.shortage import LACKING, Shortage
from fastgw.net.timers import TimerWheel

READ: Final = 1  # EPOLLIN
WRITE: Final = 4  # EPOLLOUT
LEFT: Final = 0x2000  # EPOLLRDHUP: the peer has closed its side, or the connection is gone; nothing is read for that
GONE: Final = LEFT | 0x8 | 0x10  # EPOLLERR, EPOLLHUP
MAX_EVENTS: Final = 1024  # of one look; a full one says nothing of whom it does not name, and a crowd would fill a smaller one
MAX_HOLD_S: Final = 0.0008  # so long a look calls one after another; the rest of them come first in the next
SLOWLY_S: Final = 0.0003  # so long at a time what is in no hurry is done
_EVERY: Final = 4  # events between two looks at the clock


class Polled:
    """A descriptor whose readiness is asked for. ``interest`` is of READ, WRITE and LEFT, set through the poller only."""

    __slots__ = ("fd", "interest", "watched_in")

    def __init__(self) -> None:
        self.fd = -1
        self.interest = 0
        self.watched_in = 0  # the turn in which it was registered

    def _readable(self) -> None:
        """There is something to read, or an error to be met by reading."""
        raise NotImplementedError

    def _writable(self) -> None:
        """There is room to write, or an error to be met by writing."""
        raise NotImplementedError

    def _left(self) -> None:
        """The peer has left, while nothing is read. Ends in a close, or it would be told for ever."""
        raise NotImplementedError

    def _unwatched(self, code: int) -> None:
        """The kernel has no room to watch it, for want of what the error number says: nothing more is told of it."""
        raise NotImplementedError


class Poller:
    """Asks the kernel once per turn and calls whoever is ready. ``turn`` counts the looks."""

    __slots__ = ("_batch", "_booked", "_epoll", "_full", "_hot", "_looking", "_loop", "_owners", "_shortage", "_slow", "turn")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, alone: bool = False, shortage: Shortage | None = None
    ) -> None:
        self._loop = loop
        self._shortage = shortage
        self._epoll = select.epoll()
        self._owners: dict[int, Polled] = {}
        self._hot: dict[int, int] = {}  # what this turn's look said, by descriptor
        self._batch: list[tuple[int, int]] = []  # and whose turn is yet to come, last first
        self._full = False
        self._slow: deque[Callable[[], object]] = deque()  # what is in no hurry
        self._looking = self._booked = False
        self.turn = 0
        loop.add_reader(self._epoll.fileno(), self._look)

    def __len__(self) -> int:
        """How many descriptors are registered."""
        return len(self._owners)

    def watch(self, one: Polled, interest: int) -> None:
        """From now on call ``one`` for ``interest``; 0 = no more. Where the kernel has no room for that, ``one`` is told so, as
        soon as what runs now has returned. Raises OSError for what cannot be watched at all."""
        held = one.interest
        if interest == held:
            return
        fd = one.fd
        if self._epoll.closed:
            one.interest = interest
            return
        try:
            if not held:
                self._epoll.register(fd, interest)
                self._owners[fd] = one
                one.watched_in = self.turn
            elif interest:
                self._epoll.modify(fd, interest)
                if interest & READ and not held & READ:
                    one.watched_in = self.turn  # what this look did not ask for, it says nothing of
            else:
                del self._owners[fd]
                self._epoll.unregister(fd)
        except OSError as error:
            self._refused(one, error)
            return
        # Only now: what the kernel refused is not wanted of it, and need not be taken back.
        one.interest = interest

    def _refused(self, one: Polled, error: OSError) -> None:
        code = error.errno or 0
        if code not in LACKING:
            raise error
        if self._shortage is not None:
            self._shortage.met(code, "a descriptor to be watched")
        self.soon(lambda: one._unwatched(code))

    def soon(self, call: Callable[[], object]) -> None:
        """Call ``call`` when what runs now has returned; before any other look."""
        self._loop.call_soon(call)

    def slowly(self, call: Callable[[], object]) -> None:
        """Call ``call`` when this look is over, or a little later: a thousand such calls are made a few at a time."""
        self._slow.append(call)
        if not self._looking:
            self._book()

    def _book(self) -> None:
        if not self._booked:
            self._booked = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """The loop's turn for what is in no hurry."""
        self._booked = False
        self._some()

    def _some(self) -> None:
        slow = self._slow
        until = monotonic() + SLOWLY_S
        while slow:
            call = slow.popleft()
            try:
                call()
            except Exception as error:
                self._loop.call_exception_handler({"message": "in a deferred call of the poller", "exception": error})
            if monotonic() >= until:
                break
        if slow:
            self._book()

    def hurry(self) -> None:
        """Something of the loop's own waits for its turn (a task was made): do not stay in this look."""

    def silent_since(self, one: Polled, turn: int) -> bool:
        """Whether the kernel has been asked about ``one`` after ``turn``, and knew of nothing to read."""
        return self.turn != turn and not self._full and one.fd not in self._hot

    def _look(self) -> None:
        self._looking = True
        try:
            batch = self._batch
            if not batch:
                self.turn += 1
                batch = self._batch = self._epoll.poll(0, MAX_EVENTS)
                self._hot = dict(batch)
                self._full = len(batch) == MAX_EVENTS
                batch.reverse()
            turn = self.turn
            owners = self._owners
            called = 0
            until = 0.0
            while batch:
                if called and called % _EVERY == 0:
                    now = monotonic()
                    if until == 0.0:
                        until = now + MAX_HOLD_S
                    elif now >= until:
                        break
                called += 1
                fd, events = batch.pop()
                one = owners.get(fd)
                # A descriptor that was closed in this turn may belong to somebody else already; this event is not theirs.
                if one is None or one.watched_in == turn:
                    continue
                if one.interest & LEFT and not one.interest & READ and events & GONE:
                    one._left()
                    continue
                if events != WRITE and one.interest & READ:
                    one._readable()
                if events != READ and one.interest & WRITE:
                    one._writable()
        finally:
            self._looking = False
            if self._slow:
                self._some()

    def close(self) -> None:
        """Stop looking. Whoever is still registered is not called again."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._owners.clear()


class Reactor:
    """What every connection of one gateway runs on: the loop, the deadlines, the poller.

    ``alone``: the loop has hardly anything else to do than this gateway's traffic, so the poller may wait in its place. (The
    compiled poller does: in a loop of uvloop's until the loop itself has something to do, in another for a millisecond or two
    while the traffic is dense.)
    """

    __slots__ = ("loop", "poller", "wheel")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, alone: bool = False, shortage: Shortage | None = None
    ) -> None:
        self.loop = loop
        self.wheel = TimerWheel(loop)
        self.poller = Poller(loop, alone, shortage)

    def close(self) -> None:
        self.wheel.close()
        self.poller.close()
