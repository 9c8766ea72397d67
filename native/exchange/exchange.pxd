cimport cython

from fastgw.accel.sockets cimport keep
from fastgw.exchange.attempt cimport Attempt, attempt_for
from fastgw.exchange.call cimport Call
from fastgw.exchange.context cimport Context
from fastgw.exchange.endpoints cimport Endpoint
from fastgw.exchange.figures cimport read_off
from fastgw.exchange.state cimport ExchangeState
from fastgw.limits.breaker cimport Breaker
from fastgw.net.clock cimport monotonic
from fastgw.protocol.openai cimport scan_body
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group

cdef int BACKS_OFF, CLOSED, DIALS, DONE, ENDS, GOES_ON, IS_HELD, LOCAL, MERGING, NO, PROBE, QUEUED, RELAYING, TUNNEL, WAITING
cdef long long LARGE_BYTES
cdef object JSON

@cython.final
cdef class Exchange(ExchangeState):
    cpdef whole(self, bytes body)
    cpdef _dispatch(self)
    @cython.locals(gateway=Context, walk=tuple, phase=cython.int, routing=Py_ssize_t)
    cpdef _walk(self, Py_ssize_t at)
    @cython.locals(gateway=Context, group=Group, serving=Group, pool=Pool, breaker=Breaker, call=Attempt, now=cython.double, admitted=cython.int, connected=cython.bint)
    cpdef _attempt(self)
    @cython.locals(call=Attempt)
    cpdef Attempt _new_call(self, Pool pool, bint probe)
    @cython.locals(group=Group, pool=Pool)
    cpdef bint _waits_for_room(self) except -1
    cpdef bint _again(self, Pool pool) except -1
    cpdef bint _goes_on(self, object step, Pool pool) except -1
    cpdef bint _body_at_hand(self) except -1
    cpdef bint _may_retry(self) except -1
    cpdef _back_off(self)
    cpdef answer(self, int status, bytes content_type, bytes body, bytes lines=*)
    cpdef abandon(self, str kind, str detail)
    cpdef _leaves_work(self)
    @cython.locals(call=Call)
    cpdef _cancel(self)
    cpdef _release(self, str outcome, double now)
