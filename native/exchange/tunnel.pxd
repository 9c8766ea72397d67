cimport cython

from fastgw.accel.heads cimport ResponseHead
from fastgw.exchange.call cimport Call
from fastgw.exchange.state cimport ExchangeState
from fastgw.net.clock cimport monotonic
from fastgw.net.upstream cimport UpstreamStream
from fastgw.protocol.websocket cimport Frames

cdef int DEAD, IS_UPGRADED, QUEUED

cpdef bint says_close(ExchangeState exchange, object error) except -1

@cython.final
cdef class Tunnel:
    cdef object _session
    cdef bint _ending

    @cython.locals(stream=UpstreamStream)
    cpdef up(self, ExchangeState exchange, Call call, bytes data)
    cpdef drained(self, ExchangeState exchange, Call call)
    @cython.locals(stream=UpstreamStream)
    cpdef client_ended(self, ExchangeState exchange, Call call)
    @cython.locals(stream=UpstreamStream, written=cython.int)
    cpdef down(self, ExchangeState exchange, Call call, bytes data)
    cpdef double _silence_s(self, ExchangeState exchange) except? -1
    @cython.locals(frames=Frames, at=Py_ssize_t, size=Py_ssize_t)
    cpdef bytes _read(self, ExchangeState exchange, bytes data)
    cpdef bint _said(self, ExchangeState exchange, tuple said) except -1
    cpdef _over(self, ExchangeState exchange)
