cimport cython

from fastgw.accel.heads cimport RequestHead
from fastgw.accel.sockets cimport keep
from fastgw.net.client cimport Service, Sink
from fastgw.net.client cimport ConnLimits as Figures
from fastgw.net.clock cimport monotonic
from fastgw.net.h2_client cimport ClientLink, H2ClientStream
from fastgw.net.h2_tunnel cimport H2Tunnel
from fastgw.protocol.h2.budget cimport Budget
from fastgw.protocol.h2.requests cimport RequestBlocks

cdef int MOST_OPENED
cdef object CLOSED, LEAVING

cdef class H2Arrival(ClientLink):
    cdef public Service service
    cdef public Figures limits
    cdef public str peer_ip
    cdef public bint trusted
    cdef public RequestBlocks blocks
    cdef public dict streams
    cdef bytes _forwarded
    cdef object _spoken
    cdef long _last, _left
    cdef bint _going_on
    cdef long long _first_window
    cdef list _dirty, _gone
    cdef dict _limbo
    cdef Budget _resets
    cdef int _refusals
    cdef double _look_s, _idle_until
    cdef Py_ssize_t _most

    @cython.locals(stream=H2ClientStream)
    cpdef on_block(self, long number, bytes block, bint last)
    @cython.locals(head=RequestHead, length=cython.longlong, stream=H2ClientStream)
    cdef _take_head(self, long number, bytes block, bint last)
    @cython.locals(stream=H2Tunnel)
    cdef H2ClientStream _tunnel(self, long number)
    cdef _take_trailers(self, H2ClientStream stream, bytes block, bint last)
    @cython.locals(stream=H2ClientStream, got=cython.longlong, length=cython.longlong)
    cpdef on_data(self, long number, Py_ssize_t size, Py_ssize_t taken, bytes payload, bint last)
    @cython.locals(room=cython.longlong)
    cdef bint _was_under_way(self, long number, Py_ssize_t taken, bint last) except -1
    cdef _stray_data(self, long number, Py_ssize_t taken, bint last)
    cdef _end_of(self, H2ClientStream stream)
    @cython.locals(stream=H2ClientStream)
    cpdef on_reset(self, long number, long code)
    cdef _touch(self, H2ClientStream stream)
    cdef _drop(self, H2ClientStream stream)
    cdef _fail(self, H2ClientStream stream, int code, str why)
    cdef _reset(self, long number, long long room, int code, str why)
    cdef _forget(self, long number, long long room)
    cdef _free(self)
    @cython.locals(until=cython.double)
    cpdef rest(self)
    @cython.locals(stream=H2ClientStream)
    cpdef deliver(self)
    @cython.locals(dirty=list, opened=cython.int, at=cython.Py_ssize_t, stream=H2ClientStream)
    cdef _tell_some(self)
    cdef _tell(self, H2ClientStream stream)
    @cython.locals(sink=Sink)
    cdef _tell_gone(self, H2ClientStream stream, str how)
