cimport cython

from fastgw.accel.heads cimport ResponseHead
from fastgw.net.timers cimport Timed, TimerWheel
from fastgw.protocol.body cimport Source
from fastgw.protocol.start cimport RequestStart

cdef double NEVER

cdef class Carrier:
    cpdef on_stream(self)
    cpdef on_unreachable(self, str detail, bint timed_out)
    cpdef on_head(self, ResponseHead head, Source source, bytes rest)
    cpdef on_error(self, object error)
    cpdef on_data(self, bytes data)
    cpdef on_end(self, str how)
    cpdef on_drained(self)
    cpdef on_silent(self)

cdef class UpstreamStream(Timed):
    cdef public Carrier carrier
    cdef public bint closed, connected, shared, waiting
    cdef public TimerWheel wheel

    cdef _set_up(self, TimerWheel wheel)
    cpdef due(self, double deadline)
    cpdef send(self, RequestStart start, bytes trace, bytes request_id, long long length, bytes lead, bytes body, Py_ssize_t skip,
               double due)
    cpdef int write(self, bytes data) except -2
    cpdef end(self)
    cpdef Py_ssize_t queued(self) except -1
    cpdef bint begun(self) except -1
    cpdef hold(self)
    cpdef resume(self)
    cpdef tunnel(self)
    cpdef bint blames(self) except -1
    cpdef cancel(self)
