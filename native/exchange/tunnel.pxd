from fastgw.net.clock cimport monotonic
from fastgw.accel.heads cimport ResponseHead
from fastgw.exchange.attempts cimport Attempts
from fastgw.net.client_conn cimport ClientConn
from fastgw.net.upstream_conn cimport UpstreamConn

cdef int DEAD, QUEUED
cdef double NEVER

cdef class Tunnelling(Attempts):
    cpdef _open_tunnel(self, ResponseHead head, bytes rest)
    cpdef _tunnel_down(self, bytes data)
    cpdef _tunnel_closed(self)
