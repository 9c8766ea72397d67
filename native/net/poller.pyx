# cython: boundscheck=False, wraparound=False
"""Compiled twin of fastgw/net/poller.py: the same look, dispatched without an object per event."""

cimport cython
from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t

from fastgw.net.clock cimport monotonic
from fastgw.net.timers cimport TimerWheel

READ = 1
WRITE = 4
LEFT = 0x2000
GONE = 0x2000 | 0x8 | 0x10
MAX_EVENTS = 256

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef enum:
    _READ = 1
    _WRITE = 4
    _LEFT = 0x2000
    _GONE = 0x2000 | 0x8 | 0x10
    _MAX_EVENTS = 256
    _WAIT_MS = 1

cdef double _DENSE_S = 0.0005  # since the end of the last look
cdef double _STAY_S = 0.001


cdef class Polled:
    """A descriptor whose readiness is asked for. ``interest`` is of READ, WRITE and LEFT, set through the poller only."""

    def __init__(self):
        self.fd = -1
        self.interest = 0
        self.watched_in = 0
        self._heard_in = -1

    cpdef _readable(self):
        """There is something to read, or an error to be met by reading."""
        raise NotImplementedError

    cpdef _writable(self):
        """There is room to write, or an error to be met by writing."""
        raise NotImplementedError

    cpdef _left(self):
        """The peer has left, while nothing is read. Ends in a close, or it would be told for ever."""
        raise NotImplementedError


@cython.final
cdef class Poller:
    """Asks the kernel once per turn and calls whoever is ready. ``turn`` counts the looks."""

    def __cinit__(self):
        self._fd = -1

    def __init__(self, loop, bint alone=False):
        self._loop = loop
        self._alone = alone
        self._looking = self._hurried = False
        self._later = []
        self._ended = 0.0
        self._owners = []
        self._count = 0
        self._full = False
        self.turn = 0
        self._fd = epoll_create1(EPOLL_CLOEXEC)
        if self._fd < 0:
            PyErr_SetFromErrno(OSError)
        loop.add_reader(self._fd, self._look)

    def __dealloc__(self):
        if self._fd >= 0:
            close(self._fd)

    def __len__(self):
        """How many descriptors are registered."""
        return self._count

    cpdef watch(self, Polled one, int interest):
        """From now on call ``one`` for ``interest``; 0 = no more."""
        cdef epoll_event event
        cdef int held, fd, how
        if one is None:
            raise TypeError("a descriptor is needed, not None")
        held = one.interest
        fd = one.fd
        if interest == held:
            return
        if self._fd < 0:
            one.interest = interest
            return
        how = EPOLL_CTL_ADD if not held else EPOLL_CTL_MOD if interest else EPOLL_CTL_DEL
        if not held:
            while fd >= len(self._owners):
                self._owners.append(None)
        event.events = <uint32_t>interest
        event.data.fd = fd
        if epoll_ctl(self._fd, how, fd, &event) < 0:
            PyErr_SetFromErrno(OSError)
        # Only now: what the kernel refused is not wanted of it, and need not be taken back.
        one.interest = interest
        if not held:
            self._owners[fd] = one
            self._count += 1
            one.watched_in = self.turn
        elif not interest:
            self._owners[fd] = None
            self._count -= 1

    cpdef bint silent_since(self, Polled one, long long turn) except -1:
        """Whether the kernel has been asked about ``one`` after ``turn``, and knew of nothing to read."""
        if one is None:
            raise TypeError("a descriptor is needed, not None")
        return self.turn != turn and not self._full and one._heard_in != self.turn

    cpdef soon(self, object call):
        """Call ``call`` when what runs now has returned; before any other look."""
        if self._looking:
            self._later.append(call)
        else:
            self._loop.call_soon(call)

    cpdef hurry(self):
        """Something of the loop's own waits for its turn (a task was made): do not stay in this look."""
        self._hurried = True

    cpdef _look(self):
        cdef epoll_event batch[_MAX_EVENTS]
        cdef int count
        cdef double now, until
        cdef bint dense
        if self._fd < 0:
            return
        count = epoll_wait(self._fd, batch, _MAX_EVENTS, 0)
        if count < 0 and errno != EINTR:
            PyErr_SetFromErrno(OSError)
        # While events follow each other closely, the next one is waited for here: one wait and one wake-up less for each
        # than by way of the loop's own epoll. The loop gets its turn every millisecond or two all the same.
        now = monotonic()
        dense = self._alone and now - self._ended < _DENSE_S
        until = now + _STAY_S
        self._hurried = False
        self._looking = True
        try:
            while count > 0:
                self._dispatch(batch, count)
                if self._later:
                    self._run_later()
                if not dense or self._hurried or self._fd < 0 or count == _MAX_EVENTS or monotonic() >= until:
                    break
                with nogil:
                    count = epoll_wait(self._fd, batch, _MAX_EVENTS, _WAIT_MS)
        finally:
            self._looking = False
            if self._later:
                self._run_later()
            self._ended = monotonic()

    cdef _dispatch(self, void *events_, int count):
        cdef epoll_event *batch = <epoll_event *>events_
        cdef int at, fd
        cdef long long turn
        cdef uint32_t events
        cdef Polled one
        cdef object owner
        self.turn += 1
        turn = self.turn
        self._full = count == _MAX_EVENTS
        for at in range(count):
            owner = self._owners[batch[at].data.fd]
            if owner is not None:
                (<Polled>owner)._heard_in = turn
        for at in range(count):
            fd = batch[at].data.fd
            owner = self._owners[fd]
            # A descriptor that was closed in this turn may belong to somebody else already; this event is not theirs.
            if owner is None or (<Polled>owner).watched_in == turn:
                continue
            one = <Polled>owner
            events = batch[at].events
            if one.interest & _LEFT and not one.interest & _READ and events & _GONE:
                one._left()
                continue
            if events != _WRITE and one.interest & _READ:
                one._readable()
            if events != _READ and one.interest & _WRITE:
                one._writable()

    cdef _run_later(self):
        cdef list calls = self._later
        self._later = []
        for call in calls:
            try:
                call()
            except Exception as error:
                self._loop.call_exception_handler({"message": "in a deferred call of the poller", "exception": error})

    def close(self):
        """Stop looking. Whoever is still registered is not called again."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            close(self._fd)
            self._fd = -1
            # As long as before: a look that is under way may go on with its batch.
            self._owners = [None] * len(self._owners)
            self._count = 0


@cython.final
cdef class Reactor:
    """What every connection of one gateway runs on: the loop, the deadlines, the poller."""

    def __init__(self, loop, bint alone=False):
        self.loop = loop
        self.wheel = TimerWheel(loop)
        self.poller = Poller(loop, alone)

    def close(self):
        self.wheel.close()
        self.poller.close()
