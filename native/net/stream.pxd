cimport cython

from fastgw.accel.sockets cimport keep, send, unacknowledged, unread
from fastgw.net.poller cimport Polled, Poller, Reactor
from fastgw.net.timers cimport TimerWheel

cdef int READ, WRITE

cdef class RawStream(Polled):
    cdef public object loop, sock, _queue
    cdef public Poller poller
    cdef public TimerWheel wheel
    cdef public bint closed, reading
    cdef public Py_ssize_t queued_bytes

    cdef _bind(self, object sock)
    cpdef resume_reading(self)
    cpdef pause_reading(self)
    @cython.locals(sent=cython.Py_ssize_t)
    cpdef int write(self, bytes data) except -2
    cpdef _drop_queue(self)
    cpdef bint unread(self) except -1
    cpdef Py_ssize_t unacknowledged(self) except -1
    cpdef congested(self)
    cpdef progressed(self)
    cpdef drained(self)
    cpdef write_failed(self)
    cpdef dispose(self, bint reset=*)
