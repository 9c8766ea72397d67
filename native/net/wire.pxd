cimport cython

from fastgw.accel.landing cimport Landing
from fastgw.accel.sockets cimport keep, recv, send, send_both, send_from, unacknowledged, unread
from fastgw.net.descriptors cimport abort, close, dial_error, finish
from fastgw.net.poller cimport Polled, Poller, Reactor
from fastgw.net.timers cimport Timed

cdef int LEFT, READ, WRITE
cdef Py_ssize_t LAND_BYTES, WORTH_COPYING

cdef class Holder(Timed):
    cpdef on_readable(self)
    cpdef on_left(self)
    cpdef on_unwatched(self, int code)
    cpdef on_dialled(self, int code)
    cpdef on_congested(self)
    cpdef on_progressed(self)
    cpdef on_written(self)
    cpdef on_broken(self)

cdef class Wire(Polled):
    cdef object _queue
    cdef bint _dialling
    cdef Py_ssize_t _taken
    cdef public Holder holder
    cdef public Poller poller
    cdef public bint closed, reading
    cdef public Py_ssize_t queued_bytes

    cdef _set_up(self, Reactor reactor, int fd)
    cpdef bytes recv(self, Py_ssize_t size)
    cpdef Py_ssize_t land(self, Landing landing) except -1
    cpdef resume(self)
    cpdef pause(self)
    cpdef hold(self)
    cpdef watch_leaving(self, bint minded)
    cpdef bint unread(self) except -1
    cpdef bint silent_since(self, long long turn) except -1
    cpdef int write(self, bytes data) except -2
    cpdef int write_both(self, bytes head, bytes body, Py_ssize_t start) except -2
    cpdef shutdown(self)
    cpdef Py_ssize_t unacknowledged(self) except -1
    cdef int _put_behind(self, bytes data) except -2
    @cython.locals(left=cython.Py_ssize_t)
    cdef int _put_aside(self, bytes data, Py_ssize_t sent) except -2
    cdef int _wait_with(self, bytes data, Py_ssize_t sent) except -2
    cdef _drop_queue(self)
    cpdef str why(self, int code)
    cpdef bint for_h2(self) except -1
    cpdef int dial(self, tuple address) except -1
    cpdef int release(self) except -2
    cpdef dispose(self, bint reset=*)
    cdef _farewell(self, bint reset)

@cython.final
cdef class PlainWire(Wire):
    pass
