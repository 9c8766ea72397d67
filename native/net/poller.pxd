cimport cython
from libc.stdint cimport uint32_t, uint64_t

from fastgw.net.timers cimport TimerWheel

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data

cdef enum:
    MOST_EVENTS = 1024

cdef class Polled:
    cdef public int fd, interest
    cdef public long long watched_in
    cdef long long _heard_in  # the turn whose look had an event of it

    cpdef _readable(self)
    cpdef _writable(self)
    cpdef _left(self)
    cpdef _unwatched(self, int code)

@cython.final
cdef class _Host:
    cdef int alarm, fd
    cdef uint64_t _due  # by libuv's clock: what the alarm is set for, 0 = it is not
    cdef void *_loop
    cdef void *_check
    cdef int _checks
    cdef int (*_timeout)(void *) noexcept nogil
    cdef void (*_update)(void *) noexcept nogil
    cdef int (*_active)(void *) noexcept nogil
    cdef uint64_t (*_now)(void *) noexcept nogil

    cdef bint _find(self, loop) except -1
    cdef bint wants(self, bint fresh) noexcept
    cdef void rang(self) noexcept
    cdef bint level(self) except -1
    cdef bint ready(self) noexcept

@cython.final
cdef class Poller:
    cdef object _loop, _shortage, _slow
    cdef list _owners, _later
    cdef _Host _host  # the loop that this epoll is around; None where it is within the loop's
    cdef int _fd, _bell
    cdef Py_ssize_t _count
    cdef bint _full, _alone, _looking, _hurried, _called, _settled, _booked
    cdef double _ended
    cdef int _at, _given  # of the batch: how far it is served, how much there is
    cdef epoll_event _batch[MOST_EVENTS]
    cdef public long long turn

    cpdef watch(self, Polled one, int interest)
    cpdef soon(self, object call)
    cpdef slowly(self, object call)
    cpdef _go_on(self)
    cdef _book(self)
    cdef _some(self)
    cdef _call(self, object call)
    cpdef hurry(self)
    cdef bint _go_around(self, _Host host) except -1
    cpdef _go_within(self)
    cdef _leave_host(self)
    cdef _refused(self, Polled one, int code)
    cdef int _ask(self, int wait) except -1
    cdef bint _serve(self, double until) except -1
    cdef _run_later(self)
    cpdef bint silent_since(self, Polled one, long long turn) except -1
    cpdef _look(self)
    cpdef _stay(self)

@cython.final
cdef class Reactor:
    cdef public object loop
    cdef public TimerWheel wheel
    cdef public Poller poller
