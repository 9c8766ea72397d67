cimport cython

from fastgw.accel.heads cimport ResponseHead
from fastgw.accel.lines cimport plain_answer
from fastgw.net.client cimport ClientStream, Connection, Service
from fastgw.net.client cimport ConnLimits as Figures
from fastgw.net.clock cimport monotonic
from fastgw.net.poller cimport Reactor
from fastgw.net.timers cimport TimerWheel
from fastgw.net.wire cimport Wire
from fastgw.protocol.http1.writer cimport frame, http_date, length_line, response_head, upgrade_head

cdef double NEVER
cdef Py_ssize_t WRITE_PROGRESS_BYTES
cdef int CHUNKS, DEAD, NO_BODY, PLAIN, QUEUED, SENT
cdef bytes CHUNKED, CLOSE, KEEP_ALIVE

cdef class Host(Connection):
    cdef Py_ssize_t _in_kernel
    cdef public bint held_back
    cdef public Figures limits
    cdef public Reactor reactor
    cdef public Wire wire

    cdef _set_up(self, Reactor reactor, Wire wire, Figures limits)
    cpdef bint takes(self, double now) except -1
    cpdef ended(self, bint keep_alive)
    cpdef linger(self)
    cpdef bint body_unwelcome(self) except -1
    cpdef bint overdue(self) except -1
    cpdef go_ahead(self)
    cpdef tunnel(self)
    cpdef bytes early(self)
    cpdef resume(self)

@cython.final
cdef class H1ClientStream(ClientStream):
    cdef public Host host
    cdef bytes _begun
    cdef bint _lasts

    @cython.locals(head_only=cython.bint)
    cdef _own(self, int status, bytes content_type, bytes body, bytes lines, bint keep)
    cdef _answered(self, bytes data, bint keep)
    @cython.locals(connection=bytes)
    cdef bytes _head(self, ResponseHead head, bytes framing, bytes request_id, bytes extra, bint lasts, bytes body=*)
    # (Not its base's: a default would make them two kinds of call.)
    cpdef close(self, bint reset=*)
