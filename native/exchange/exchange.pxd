cimport cython

from fastgw.accel.heads cimport RequestHead
from fastgw.accel.landing cimport Landing
from fastgw.accel.sockets cimport keep
from fastgw.exchange cimport asking
from fastgw.exchange.call cimport Call
from fastgw.exchange.context cimport Context, Judgement
from fastgw.exchange.endpoints cimport Endpoint
from fastgw.exchange.figures cimport read_off
from fastgw.exchange.state cimport ExchangeState
from fastgw.net.client cimport ClientStream
from fastgw.net.clock cimport monotonic
from fastgw.protocol.openai cimport scan_body

cdef int BACKOFF, DONE, ENDS, GOES_ON, HELD, IS_HELD, LOCAL, MERGING, PEERED, QUEUED, RECEIVING, RELAYING, TUNNEL, WAITING
cdef long long LARGE_BYTES
cdef object JSON

@cython.locals(made=Exchange, known=Judgement)
cpdef Exchange exchange_for(Context gateway, ClientStream client, RequestHead head, Endpoint endpoint, bytes request_id)

@cython.final
cdef class Exchange(ExchangeState):
    cpdef whole(self, bytes body)
    cpdef _dispatch(self)
    cdef _waited(self)
    @cython.locals(gateway=Context, walk=tuple, phase=cython.int, routing=Py_ssize_t)
    cpdef _walk(self, Py_ssize_t at)
    cpdef answer(self, int status, bytes content_type, bytes body, bytes lines=*)
    cpdef bytes own_lines(self)
    cpdef abandon(self, str kind, str detail)
    cpdef _leaves_work(self)
    @cython.locals(call=Call)
    cpdef _cancel(self)
    cpdef _release(self, str outcome, double now)
