cimport cython

from fastgw.net.clock cimport monotonic
from fastgw.accel.heads cimport Kept, RequestHead
from fastgw.accel.ids cimport valid_request_id
from fastgw.accel.lines cimport serial_id
from fastgw.exchange.exchange cimport Exchange, exchange_for
from fastgw.exchange.endpoints cimport Endpoint
from fastgw.exchange.record cimport AccessLog
from fastgw.exchange.context cimport Context, Judgement
from fastgw.net.client cimport ClientStream, Connection
from fastgw.stats cimport Stats

cdef int DONE

cdef object JSON, LOCAL, TUNNEL

cdef class GatewayCore(Context):
    cdef public object heads, health, profile, endpoints, on_closed, on_preface, preflight
    cdef object _large, _other_keys
    cdef AccessLog _access
    cdef object __weakref__
    cdef public bint leaving, plain_ids
    cdef public tuple filters
    cdef public set connections, unread
    cdef public long long version, _serial
    cdef public dict locals
    cdef public bytes _instance

    cpdef bytes request_id(self, RequestHead head)
    @cython.locals(known=Judgement, exchange=Exchange)
    cpdef open(self, ClientStream client, RequestHead head)
    @cython.locals(known=Judgement)
    cpdef object recalled(self, ClientStream stream, Kept kept, RequestHead head)
    @cython.locals(exchange=Exchange, endpoint=Endpoint)
    cpdef _judge(self, ClientStream client, RequestHead head)
    @cython.locals(one=Exchange)
    cpdef finished(self, object exchange, str outcome, double now)
