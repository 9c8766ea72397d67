# cython: boundscheck=False, wraparound=False
"""Compiled twin of fastgw/net/poller.py: the same looks, without an object per event.

It can turn the two epolls round. Where the gateway is ``alone`` in a loop of uvloop's, the loop's own descriptor is in the data
plane's epoll, and not the other way round: :meth:`Poller._stay` is entered from the loop, by a bell that is rung whenever it is
left, and waits for both. It returns when libuv has something to do, and not before; ``_Host`` knows when that is. Where anything
of this is missing, and in any other loop, the loop watches the epoll's descriptor and calls :meth:`Poller._look`, as it does in
Python.
"""

cimport cython
from cpython.exc cimport PyErr_SetFromErrno
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t, uint64_t

from fastgw.net.clock cimport monotonic
from fastgw.net.timers cimport TimerWheel

import os
from collections import deque

from fastgw.net.shortage import LACKING

READ = 1
WRITE = 4
LEFT = 0x2000
GONE = 0x2000 | 0x8 | 0x10
MAX_EVENTS = 1024
MAX_HOLD_S = 0.0008
SLOWLY_S = 0.0003

cdef extern from *:
    """
    #include <sys/epoll.h>
    #include <sys/syscall.h>
    #include <sys/timerfd.h>
    #include <unistd.h>

    /* As in accel/sockets: nobody cancels this thread, and the library's own call says before and after that he may. */
    #if defined(__linux__) && defined(SYS_epoll_wait)
    #define fastgw_wait(epfd, events, most, timeout) \\
        ((int)syscall(SYS_epoll_wait, (long)(epfd), events, (long)(most), (long)(timeout)))
    #elif defined(__linux__) && defined(SYS_epoll_pwait)
    #define fastgw_wait(epfd, events, most, timeout) \\
        ((int)syscall(SYS_epoll_pwait, (long)(epfd), events, (long)(most), (long)(timeout), NULL, 8L))
    #else
    #define fastgw_wait epoll_wait
    #endif

    /* After so many milliseconds, once. */
    static int fastgw_alarm(int fd, int timeout) {
        struct itimerspec when = {{0, 0}, {timeout / 1000, timeout % 1000 * 1000000L}};
        return timerfd_settime(fd, 0, &when, NULL);
    }
    """
    int epoll_wait "fastgw_wait"(int epfd, epoll_event *events, int maxevents, int timeout) nogil
    int set_alarm "fastgw_alarm"(int fd, int timeout) nogil

cdef extern from "<sys/timerfd.h>" nogil:
    int timerfd_create(int clock, int flags)
    int TFD_CLOEXEC, TFD_NONBLOCK

cdef extern from "<time.h>" nogil:
    int CLOCK_MONOTONIC

cdef extern from "<sys/epoll.h>" nogil:
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int initial, int flags)
    int EFD_CLOEXEC, EFD_NONBLOCK

cdef extern from "<dlfcn.h>" nogil:
    void *dlopen(const char *name, int flags)
    void *dlsym(void *handle, const char *name)
    int RTLD_LAZY, RTLD_NOLOAD

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    ssize_t write(int fd, const void *data, size_t size)
    ssize_t read(int fd, void *data, size_t size)

cdef enum:
    _READ = 1
    _WRITE = 4
    _LEFT = 0x2000
    _GONE = 0x2000 | 0x8 | 0x10
    _WAIT_MS = 1
    _EVERY = 4  # events between two looks at the clock
    _UV_CHECK = 2
    _EDGE = 1 << 31  # EPOLLET
    _LEAST_LIBUV = 0x012D00  # 1.45: from there on `uv_backend_timeout` knows of watchers that the kernel was not told of yet

cdef double _DENSE_S = 0.0005  # since the end of the last look
cdef double _STAY_S = 0.001
cdef double _HOLD_S = MAX_HOLD_S
cdef double _SLOWLY_S = SLOWLY_S
cdef double _AGAIN_S = 0.1

cdef set _taken = set()  # the loops (of libuv) that have a poller around them: a second one is nested, or each would wake the other


cdef struct _Handle:  # as each of libuv's begins, in every version of its interface
    void *data
    void *loop
    int type


cdef void _note_check(void *handle, void *host_) noexcept with gil:
    """A handle of libuv's: the one that uvloop writes from, in the phase behind the poll, is remembered."""
    cdef _Host host = <_Host>host_
    if (<_Handle *>handle).loop != host._loop:
        host._checks = 2  # not what it is taken for
    elif (<_Handle *>handle).type == _UV_CHECK:
        host._check = handle
        host._checks += 1


@cython.final
cdef class _Host:
    """The libuv loop around the data plane, asked from within a look.

    uvloop's extension brings libuv with it and leaves its names visible; what is called here is libuv's public interface. Its next
    timer is an ``alarm`` of ours (a timerfd), set when it is another one than before: a wait that ends by itself would have the
    kernel set and take back a timer for each sleep, and us look at the clock before it.
    """

    def __cinit__(self):
        self.alarm = -1

    def __dealloc__(self):
        if self.alarm >= 0:
            close(self.alarm)

    cdef bint _find(self, loop) except -1:
        """Whether ``loop`` is one that can be asked."""
        cdef void *library
        cdef int (*backend)(void *) noexcept nogil
        cdef void (*walk)(void *, void *, void *) noexcept
        cdef bytes path
        if type(loop).__module__ not in ("uvloop", "uvloop.loop") or loop.get_debug():
            return False  # (one that debugs complains of a callback that lasts)
        import uvloop.loop as extension

        if not hasattr(extension, "libuv_get_loop_t_ptr") or not hasattr(loop, "_get_backend_id"):
            return False
        if extension.libuv_get_version() < _LEAST_LIBUV:
            return False
        path = os.fsencode(extension.__file__)
        library = dlopen(path, RTLD_LAZY | RTLD_NOLOAD)  # never closed: the interpreter keeps it as long
        if library == NULL:
            return False
        self._timeout = <int (*)(void *) noexcept nogil>dlsym(library, "uv_backend_timeout")
        self._update = <void (*)(void *) noexcept nogil>dlsym(library, "uv_update_time")
        self._active = <int (*)(void *) noexcept nogil>dlsym(library, "uv_is_active")
        self._now = <uint64_t (*)(void *) noexcept nogil>dlsym(library, "uv_now")
        backend = <int (*)(void *) noexcept nogil>dlsym(library, "uv_backend_fd")
        walk = <void (*)(void *, void *, void *) noexcept>dlsym(library, "uv_walk")
        if self._timeout == NULL or self._update == NULL or self._active == NULL or self._now == NULL:
            return False
        if backend == NULL or walk == NULL:
            return False
        self._loop = PyCapsule_GetPointer(extension.libuv_get_loop_t_ptr(loop), NULL)
        self.fd = loop._get_backend_id()
        if self.fd < 0 or backend(self._loop) != self.fd or <size_t>self._loop in _taken:
            return False
        walk(self._loop, <void *>_note_check, <void *>self)
        return self._checks == 1

    cdef bint wants(self, bint fresh) noexcept:
        """Whether it wants its turn now. If not, it has nothing to do but wait for its descriptor and for the alarm, which is set.

        ``fresh``: the clock is looked at, not only the alarm. libuv's own clock stands still between two of the loop's turns, and
        so a timer that has not been touched says what it said, and the alarm stays as it is.
        """
        cdef int timeout = self._timeout(self._loop)
        cdef uint64_t due
        if timeout == 0 or self._active(self._check):
            return True
        if timeout < 0:
            if self._due:
                self._due = 0
                set_alarm(self.alarm, 0)
            return False
        due = self._now(self._loop) + <uint64_t>timeout
        if fresh or due != self._due:
            self._update(self._loop)
            timeout = self._timeout(self._loop)
            if timeout == 0:
                return True
            if due != self._due:
                if set_alarm(self.alarm, timeout) < 0:
                    return True
                self._due = due
        return False

    cdef void rang(self) noexcept:
        """The alarm went off. (What is set next silences it, or takes it back.)"""
        cdef uint64_t times
        read(self.alarm, &times, sizeof(times))
        self._due = 0

    cdef bint level(self) except -1:
        """Whether all that it watches is told of for as long as it lasts. What is told of once could be in the batch that libuv is
        going through when it calls us, behind our bell, and would wait there; nothing would tell of it again."""
        try:
            with open(f"/proc/self/fdinfo/{self.fd}") as file:
                watched = [line.split() for line in file if line.startswith("tfd:")]
        except OSError:
            return False
        return bool(watched) and not any(int(row[3], 16) & _EDGE for row in watched)

    cdef bint ready(self) noexcept:
        """Whether one of its descriptors is, in the middle of a look; the kernel is asked without taking anything from it."""
        cdef pollfd one
        one.fd = self.fd
        one.events = _READ
        return poll(&one, 1, 0) != 0


cdef class Polled:
    """A descriptor whose readiness is asked for. ``interest`` is of READ, WRITE and LEFT, set through the poller only."""

    def __cinit__(self):
        self._heard_in = -1

    def __init__(self):
        self.fd = -1
        self.interest = 0
        self.watched_in = 0

    cpdef _readable(self):
        """There is something to read, or an error to be met by reading."""
        raise NotImplementedError

    cpdef _writable(self):
        """There is room to write, or an error to be met by writing."""
        raise NotImplementedError

    cpdef _left(self):
        """The peer has left, while nothing is read. Ends in a close, or it would be told for ever."""
        raise NotImplementedError

    cpdef _unwatched(self, int code):
        """The kernel has no room to watch it, for want of what the error number says: nothing more is told of it."""
        raise NotImplementedError


@cython.final
cdef class Poller:
    """Asks the kernel once per turn and calls whoever is ready. ``turn`` counts the looks."""

    def __cinit__(self):
        self._fd = self._bell = -1

    def __init__(self, loop, bint alone=False, shortage=None):
        cdef _Host host
        self._loop = loop
        self._shortage = shortage
        self._alone = alone
        self._looking = self._hurried = self._called = self._settled = self._booked = False
        self._later = []
        self._slow = deque()
        self._ended = 0.0
        self._owners = []
        self._count = self._at = self._given = 0
        self._full = False
        self.turn = 0
        self._fd = epoll_create1(EPOLL_CLOEXEC)
        if self._fd < 0:
            PyErr_SetFromErrno(OSError)
        host = _Host()
        if alone and host._find(loop) and self._go_around(host):
            return
        loop.add_reader(self._fd, self._look)

    def __dealloc__(self):
        if self._fd >= 0:
            close(self._fd)
        if self._bell >= 0:
            close(self._bell)

    cdef bint _go_around(self, _Host host) except -1:
        """Be the outermost epoll; False where the kernel does not let it."""
        cdef epoll_event event
        host.alarm = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)
        if host.alarm < 0:
            return False
        event.events = _READ
        event.data.fd = host.alarm
        if epoll_ctl(self._fd, EPOLL_CTL_ADD, host.alarm, &event) < 0:
            return False
        event.data.fd = host.fd
        if epoll_ctl(self._fd, EPOLL_CTL_ADD, host.fd, &event) < 0:
            epoll_ctl(self._fd, EPOLL_CTL_DEL, host.alarm, &event)
            return False
        self._bell = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)
        if self._bell < 0:
            epoll_ctl(self._fd, EPOLL_CTL_DEL, host.alarm, &event)
            epoll_ctl(self._fd, EPOLL_CTL_DEL, host.fd, &event)
            return False
        self._owners = [None] * (max(host.fd, host.alarm) + 1)
        self._host = host
        self._loop.add_reader(self._bell, self._stay)
        _taken.add(<size_t>host._loop)
        return True

    cpdef _go_within(self):
        """Be watched by the loop: as soon as the kernel has room for that, for nobody would look before."""
        if self._fd < 0:
            return
        try:
            self._loop.add_reader(self._fd, self._look)
        except OSError as error:
            if self._shortage is not None:
                self._shortage.met(error.errno or 0, "the data plane's own poll")
            self._loop.call_later(_AGAIN_S, self._go_within)

    cdef _leave_host(self):
        cdef epoll_event event
        epoll_ctl(self._fd, EPOLL_CTL_DEL, self._host.fd, &event)
        epoll_ctl(self._fd, EPOLL_CTL_DEL, self._host.alarm, &event)
        self._loop.remove_reader(self._bell)
        close(self._bell)
        self._bell = -1
        _taken.discard(<size_t>self._host._loop)
        self._host = None

    def __len__(self):
        """How many descriptors are registered."""
        return self._count

    cpdef watch(self, Polled one, int interest):
        """From now on call ``one`` for ``interest``; 0 = no more. Where the kernel has no room for that, ``one`` is told so, as
        soon as what runs now has returned. Raises OSError for what cannot be watched at all."""
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
            self._refused(one, errno)
            return
        # Only now: what the kernel refused is not wanted of it, and need not be taken back.
        one.interest = interest
        if not held:
            self._owners[fd] = one
            self._count += 1
            one.watched_in = self.turn
        elif not interest:
            self._owners[fd] = None
            self._count -= 1
        elif interest & _READ and not held & _READ:
            one.watched_in = self.turn  # what this look did not ask for, it says nothing of

    cdef _refused(self, Polled one, int code):
        if code not in LACKING:
            raise OSError(code, os.strerror(code))
        if self._shortage is not None:
            self._shortage.met(code, "a descriptor to be watched")
        self.soon(lambda: one._unwatched(code))

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

    cpdef slowly(self, object call):
        """Call ``call`` when this look is over, or a little later: a thousand such calls are made a few at a time."""
        self._slow.append(call)
        if not self._looking:
            self._book()

    cdef _book(self):
        if not self._booked:
            self._booked = True
            self._loop.call_soon(self._go_on)

    cpdef _go_on(self):
        """The loop's turn for what is in no hurry."""
        self._booked = False
        self._some()

    cdef _some(self):
        cdef object slow = self._slow
        cdef double until = monotonic() + _SLOWLY_S
        while slow:
            self._call(slow.popleft())
            if monotonic() >= until:
                break
        if slow:
            self._book()

    cdef _call(self, object call):
        try:
            call()
        except Exception as error:
            self._loop.call_exception_handler({"message": "in a deferred call of the poller", "exception": error})

    cpdef hurry(self):
        """Something of the loop's own waits for its turn (a task was made): do not stay in this look."""
        self._hurried = True

    cpdef _look(self):
        """The loop says that something is ready."""
        cdef double now, until
        cdef bint dense, whole
        if self._fd < 0:
            return
        # While events follow each other closely, the next one is waited for here: one wait and one wake-up less for each
        # than by way of the loop's own epoll. The loop gets its turn every millisecond or two all the same.
        now = monotonic()
        dense = self._alone and now - self._ended < _DENSE_S
        until = now + _STAY_S
        self._hurried = False
        self._looking = True
        try:
            if self._at == self._given:
                self._ask(0)
            while self._given:
                whole = self._serve(until)
                if not dense or not whole or self._hurried or self._fd < 0 or self._full or monotonic() >= until:
                    break
                if self._later:
                    break  # (what was put off has put off more: that is to run before another look)
                self._ask(_WAIT_MS)
        finally:
            self._looking = False
            if self._later:
                self._run_later()
            if self._slow:
                self._some()
            self._ended = monotonic()

    cpdef _stay(self):
        """The loop has nothing else to do, as far as it knows: wait for its descriptors and for ours, until it has."""
        cdef uint64_t rung = 1
        cdef bint done, whole
        if self._host is None:
            return
        if not self._settled:
            # (Only now libuv has told the kernel what it watches.)
            self._settled = True
            if not self._host.level():
                self._leave_host()
                self._go_within()
                return
        read(self._bell, &rung, sizeof(rung))
        self._called = False
        self._looking = True
        try:
            # Once in any case: a loop that is never done must not be the end of the traffic.
            done = self._host.wants(True)
            while True:
                if self._at == self._given:
                    self._ask(0 if done else -1)
                whole = self._serve(0.0)
                if self._slow:
                    self._some()
                if done or self._called or self._fd < 0 or (not whole and self._host.ready()):
                    break
                if self._later:
                    break  # (what was put off has put off more: that waits for nobody)
                done = self._host.wants(not whole)
                if done:
                    break
        finally:
            self._looking = False
            if self._later:
                self._run_later()
            if self._slow:
                self._book()
            if self._bell >= 0:
                rung = 1
                write(self._bell, &rung, sizeof(rung))

    cdef int _ask(self, int wait) except -1:
        """What is ready within ``wait`` milliseconds (-1: whenever)."""
        cdef int at, fd, count
        cdef long long turn
        cdef object owner
        if wait:
            with nogil:
                count = epoll_wait(self._fd, self._batch, MOST_EVENTS, wait)
        else:
            count = epoll_wait(self._fd, self._batch, MOST_EVENTS, 0)
        self._at = self._given = 0
        if count < 0:
            if errno != EINTR:
                PyErr_SetFromErrno(OSError)
            self._called = True  # a signal: Python's own turn
            return 0
        self.turn += 1
        turn = self.turn
        self._given = count
        self._full = count == MOST_EVENTS
        for at in range(count):
            fd = self._batch[at].data.fd
            owner = self._owners[fd]
            if owner is not None:
                (<Polled>owner)._heard_in = turn
            elif self._host is not None:
                if fd == self._host.alarm:
                    self._host.rang()
                    self._called = True
                elif fd == self._host.fd:
                    self._called = True
        return 0

    cdef bint _serve(self, double until) except -1:
        """Call whoever is ready, and what they put off. False where the time ran out before: the rest comes first in the next
        look. (``until`` 0: so long from the first look at the clock on.)"""
        cdef int fd
        cdef uint32_t events
        cdef Polled one
        cdef object owner
        cdef double now
        while self._at < self._given:
            if self._at and self._at % _EVERY == 0:
                now = monotonic()
                if until == 0.0:
                    until = now + _HOLD_S
                elif now >= until:
                    break
            fd = self._batch[self._at].data.fd
            events = self._batch[self._at].events
            self._at += 1
            owner = self._owners[fd]
            # A descriptor that was closed in this turn may belong to somebody else already; this event is not theirs.
            if owner is None or (<Polled>owner).watched_in == self.turn:
                continue
            one = <Polled>owner
            if one.interest & _LEFT and not one.interest & _READ and events & _GONE:
                one._left()
                continue
            if events != _WRITE and one.interest & _READ:
                one._readable()
            if events != _READ and one.interest & _WRITE:
                one._writable()
        if self._later:
            self._run_later()
        return self._at == self._given

    cdef _run_later(self):
        cdef list calls = self._later
        self._later = []
        for call in calls:
            self._call(call)

    def close(self):
        """Stop looking. Whoever is still registered is not called again."""
        if self._fd >= 0:
            if self._host is None:
                self._loop.remove_reader(self._fd)
            else:
                self._leave_host()
            close(self._fd)
            self._fd = -1
            # As long as before: a look that is under way may go on with its batch.
            self._owners = [None] * len(self._owners)
            self._count = 0


@cython.final
cdef class Reactor:
    """What every connection of one gateway runs on: the loop, the deadlines, the poller."""

    def __init__(self, loop, bint alone=False, shortage=None):
        self.loop = loop
        self.wheel = TimerWheel(loop)
        self.poller = Poller(loop, alone, shortage)

    def close(self):
        self.wheel.close()
        self.poller.close()
