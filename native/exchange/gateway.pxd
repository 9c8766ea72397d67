from fastgw.protocol.http1.writer cimport http_date
cimport cython

from fastgw.net.clock cimport monotonic
from fastgw.accel.heads cimport RequestHead
from fastgw.accel.lines cimport serial_id
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.endpoints cimport Endpoint
from fastgw.exchange.record cimport AccessLog
from fastgw.exchange.state cimport ExchangeState
from fastgw.exchange.context cimport Context, Judgement
from fastgw.net.client_conn cimport ClientConn
from fastgw.stats cimport Stats

cdef object DONE, JSON, LOCAL, TUNNEL

cdef class GatewayCore(Context):
    cdef public object log, health, profile, endpoints, on_closed, preflight
    cdef object _large, _other_keys
    cdef AccessLog _access
    cdef object __weakref__
    cdef public bint plain_ids
    cdef public set conns, discards
    cdef public long long version, _serial
    cdef public dict locals
    cdef public bytes _instance

    cpdef bytes request_id(self, RequestHead head)
    @cython.locals(known=Judgement, exchange=Exchange, endpoint=Endpoint)
    cpdef open(self, ClientConn conn, RequestHead head)
    @cython.locals(one=Exchange)
    cpdef finished(self, object exchange, str outcome, double now)
