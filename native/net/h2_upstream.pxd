cimport cython

from fastgw.accel.frames cimport header
from fastgw.accel.heads cimport ResponseHead
from fastgw.net.clock cimport monotonic
from fastgw.net.h2_stream cimport H2UpstreamStream, Link, Places
from fastgw.protocol.h2.frames cimport headers, window_update
from fastgw.protocol.h2.heads cimport response_head
from fastgw.stats cimport Stats

cdef int DATA, END_STREAM

cdef class H2Home(Places):
    cpdef freed(self, H2UpstreamConn conn)

# (Not final: what it has from its base is declared again, for the types of its locals.)
cdef class H2UpstreamConn(Link):
    cdef public H2Home home
    cdef public Stats stats
    cdef public dict streams
    cdef public long reserved, limit
    cdef public object making
    cdef object _resets
    cdef long _next
    cdef bint _first, _freed, _idle
    cdef public bint useful
    cdef list _dirty
    cdef dict _stuck, _limbo

    cpdef long spare(self) except? -1
    cpdef bint busy(self) except -1
    cpdef place(self, H2UpstreamStream stream)
    cdef _reset(self, long number, int code)
    cdef _free(self)
    cdef _touch(self, H2UpstreamStream stream)
    @cython.locals(stream=H2UpstreamStream)
    cpdef on_data(self, long number, Py_ssize_t size, Py_ssize_t taken, bytes payload, bint last)
    @cython.locals(stream=H2UpstreamStream, head=ResponseHead)
    cpdef on_block(self, long number, bytes block, bint last)
    @cython.locals(dirty=list, stream=H2UpstreamStream)
    cpdef deliver(self)
    @cython.locals(stream=H2UpstreamStream, left=cython.longlong)
    cpdef on_room(self)
    @cython.locals(stream=H2UpstreamStream)
    cpdef on_window(self, long number, long long more)
    @cython.locals(stream=H2UpstreamStream)
    cpdef on_reset(self, long number, long code)
    cdef _end_of(self, H2UpstreamStream stream)
    cdef _done(self, H2UpstreamStream stream)
    cdef _fail(self, H2UpstreamStream stream, int code, str why)
    cpdef retire(self, str why)
    @cython.locals(stream=H2UpstreamStream)
    cdef _tell_all(self, str how)
