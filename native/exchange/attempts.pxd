cimport cython

from fastgw.net.clock cimport monotonic
from fastgw.accel.lines cimport request_start
from fastgw.exchange.context cimport Context, Judgement
from fastgw.exchange.state cimport ExchangeState
from fastgw.accel.heads cimport RequestHead
from fastgw.net.client_conn cimport ClientConn
from fastgw.net.upstream_conn cimport UpstreamConn
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group
from fastgw.upstream.target cimport Engine

cdef Py_ssize_t JOIN_BYTES

cdef object CONNECTING, WAITING

cdef class Attempts(ExchangeState):
    @cython.locals(pool=Pool, conn=UpstreamConn, now=cython.double)
    cpdef attempt(self)
    cpdef _dial(self, Pool pool)
    @cython.locals(body=bytes)
    cpdef _send(self, UpstreamConn conn, Pool pool, double now)
    @cython.locals(known=Judgement)
    cpdef bytes request_head(self, Pool pool, long long length)
    cpdef bytes _request_line(self, bytes base)
    cpdef bytes _fields(self)
