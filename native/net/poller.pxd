cimport cython

from fastgw.net.timers cimport TimerWheel

cdef class Polled:
    cdef public int fd, interest
    cdef public long long watched_in
    cdef long long _heard_in  # the turn whose look had an event of it

    cpdef _readable(self)
    cpdef _writable(self)
    cpdef _left(self)

@cython.final
cdef class Poller:
    cdef object _loop
    cdef list _owners
    cdef int _fd
    cdef Py_ssize_t _count
    cdef bint _full, _alone, _looking, _hurried
    cdef list _later
    cdef double _ended
    cdef public long long turn

    cpdef watch(self, Polled one, int interest)
    cpdef soon(self, object call)
    cpdef hurry(self)
    cdef _dispatch(self, void *events, int count)
    cdef _run_later(self)
    cpdef bint silent_since(self, Polled one, long long turn) except -1
    cpdef _look(self)

@cython.final
cdef class Reactor:
    cdef public object loop
    cdef public TimerWheel wheel
    cdef public Poller poller
