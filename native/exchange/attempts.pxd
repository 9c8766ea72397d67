cimport cython

from fastgw.net.clock cimport monotonic
from fastgw.accel.lines cimport request_start
from fastgw.exchange.context cimport Context, Judgement
from fastgw.exchange.state cimport ExchangeState
from fastgw.limits.breaker cimport Breaker
from fastgw.accel.heads cimport RequestHead, ResponseHead
from fastgw.net.client_conn cimport ClientConn
from fastgw.net.upstream_conn cimport UpstreamConn
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group
from fastgw.upstream.target cimport Engine

cdef Py_ssize_t JOIN_BYTES


cdef object BACKOFF, CONNECTING, DONE, QUEUED, WAITING

cdef int CLOSED, NO, PROBE

cdef class Attempts(ExchangeState):
    @cython.locals(pool=Pool, conn=UpstreamConn, now=cython.double, breaker=Breaker, admitted=cython.int)
    cpdef attempt(self)
    cpdef bint _wait_for_room(self) except -1
    @cython.locals(breaker=Breaker)
    cpdef _succeed(self)
    cpdef _fault(self)
    cpdef _release(self)
    cpdef bint _body_at_hand(self) except -1
    cpdef bint _may_retry(self) except -1
    cpdef _back_off(self)
    cpdef bint _retry_answer(self, ResponseHead head) except -1
    cpdef bint _asked_too_much(self) except -1
    cpdef _dial(self, Pool pool)
    @cython.locals(body=bytes)
    cpdef _send(self, UpstreamConn conn, Pool pool, double now)
    @cython.locals(known=Judgement)
    cpdef bytes request_head(self, Pool pool, long long length)
    cpdef bytes _request_line(self, Engine engine)
    cpdef bytes _fields(self)
