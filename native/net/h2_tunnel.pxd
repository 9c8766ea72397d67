cimport cython

from fastgw.accel.heads cimport ResponseHead
from fastgw.accel.sockets cimport keep
from fastgw.net.client cimport Sink
from fastgw.net.clock cimport monotonic
from fastgw.net.h2_client cimport H2ClientStream
from fastgw.protocol.h2.answers cimport tunnel_block

cdef int CANCEL, NO_ERROR
cdef double LINGER_S, NEVER

# (Not final: what it has from its base is declared again.)
cdef class H2Tunnel(H2ClientStream):
    cdef public bint passes

    cpdef set_up(self)
    cpdef open(self)
    cdef _wait(self)
    @cython.locals(sink=Sink, data=bytes)
    cpdef tell(self)
    @cython.locals(pieces=list, data=bytes)
    cdef bytes _taken_off(self)
    cpdef int upgrade(self, ResponseHead head, bytes request_id, bytes data) except -2
    cpdef bytes early(self)
    cpdef pause(self)
    cpdef resume(self)
    cpdef int pass_on(self, bytes data) except -2
    cpdef hang_up(self)
    cpdef tear_off(self)
    cdef _own(self, int status, bytes content_type, bytes body, bytes lines)
    cdef _ended(self)
