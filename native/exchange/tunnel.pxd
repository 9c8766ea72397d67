cimport cython

from fastgw.net.clock cimport monotonic
from fastgw.accel.heads cimport ResponseHead
from fastgw.exchange.attempts cimport Attempts
from fastgw.net.client_conn cimport ClientConn
from fastgw.net.upstream_conn cimport UpstreamConn
from fastgw.protocol.websocket cimport Frames

cdef int DEAD, QUEUED
cdef double NEVER

cdef class Tunnelling(Attempts):
    @cython.locals(down=bytes)
    cpdef _open_tunnel(self, ResponseHead head, bytes rest)
    @cython.locals(frames=Frames, at=Py_ssize_t, size=Py_ssize_t)
    cpdef bytes _read_down(self, bytes data)
    cpdef bint _said(self, tuple said) except -1
    cpdef _session_over(self)
    cpdef _close_spent(self)
    cpdef _tunnel_down(self, bytes data)
    cpdef _tunnel_closed(self)
