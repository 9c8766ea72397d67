cimport cython

from fastgw.accel.frames cimport header
from fastgw.accel.heads cimport RequestHead, ResponseHead
from fastgw.accel.landing cimport Landing
from fastgw.accel.sockets cimport keep
from fastgw.net.client cimport ClientStream, Service, Sink
from fastgw.net.clock cimport monotonic
from fastgw.net.h2_link cimport H2Link
from fastgw.protocol.h2.answers cimport engine_block, local_block, trailer_block
from fastgw.protocol.h2.frames cimport headers, window_update
from fastgw.protocol.http1.writer cimport http_date

cdef double NEVER
cdef int BODY_PROGRESS_BYTES, CANCEL, DATA, DEAD, END_STREAM, INTERNAL_ERROR, MAX_REFUSALS, NO_BODY, PLAIN, QUEUED, SENT
cdef int WRITE_PROGRESS_BYTES

cdef object CLOSED

cdef class ClientLink(H2Link):
    cpdef bytes head(self, bytes block)
    cpdef ready(self, H2ClientStream stream)
    cpdef over(self, H2ClientStream stream, int code)
    cpdef part(self, H2ClientStream stream)
    cpdef spare(self, H2ClientStream stream)
    cpdef deliver_soon(self, H2ClientStream stream)
    cpdef retire(self)

# (Not final: a tunnel is one.)
cdef class H2ClientStream(ClientStream):
    cdef public ClientLink link
    cdef public long number
    cdef public bint is_over, opened, ended, dirty, held, told, begun, last, queued
    cdef public object fault, spoiled
    cdef public long long length, got, room, window
    cdef public list pieces
    cdef public object by
    cdef public Landing landing
    cdef public double body_at, stuck_at
    cdef public Py_ssize_t out_bytes
    cdef public int code, refused
    cdef Py_ssize_t _late, _unsaid, _taken, _moved
    cdef bytes _begun, _trailers
    cdef list _out
    cdef bint _owed

    @cython.locals(sink=Sink)
    cpdef body_late(self, str detail)
    @cython.locals(now=cython.double, head=RequestHead, sink=Sink)
    cpdef open(self)
    @cython.locals(pieces=list, count=cython.Py_ssize_t, data=bytes, sink=Sink, last=cython.bint)
    cpdef tell(self)
    cpdef padded(self, Py_ssize_t size)
    @cython.locals(size=cython.Py_ssize_t, landing=Landing)
    cdef _pass(self, Sink sink, bytes data, bint last)
    cpdef put_by(self, bytes payload)
    @cython.locals(sink=Sink)
    cpdef wait(self)
    @cython.locals(sink=Sink, data=bytes)
    cdef _tell_by(self)
    @cython.locals(more=cython.longlong)
    cdef _say(self)
    cdef _own(self, int status, bytes content_type, bytes body, bytes lines)
    cdef _answered(self, bytes block, bytes body)
    @cython.locals(link=ClientLink, data=bytes)
    cdef _head_out(self, bytes block, bint last)
    cdef int _state(self) except -2
    @cython.locals(link=ClientLink, size=cython.Py_ssize_t, waits=cython.Py_ssize_t)
    cdef int _queue(self, bytes payload) except -2
    cdef _close_up(self)
    @cython.locals(link=ClientLink, left=cython.Py_ssize_t, size=cython.Py_ssize_t, ends=cython.bint, trailers=cython.bint)
    cpdef int go(self, list out) except -3
    @cython.locals(pieces=list, first=bytes, at=cython.Py_ssize_t, left=cython.Py_ssize_t)
    cdef _take(self, list out, Py_ssize_t size)
    cpdef kept(self)
    @cython.locals(sink=Sink)
    cpdef drained(self)
    cdef _ended(self)
    cpdef close(self, bint reset=*)
