cimport cython

from fastgw.accel.heads cimport RequestHead
from fastgw.exchange.call cimport Call
from fastgw.exchange.relay cimport Relay
from fastgw.exchange.state cimport ExchangeState

cdef class AccessLog:
    cpdef ended(self, ExchangeState exchange, str outcome, double now)
    cpdef append(self, object record)

cdef class Records(AccessLog):
    cdef object _sink

cpdef bytes shown_path(ExchangeState exchange)
cpdef str shown_model(ExchangeState exchange)
@cython.locals(call=Call, relay=Relay)
cpdef bint streamed(ExchangeState exchange) except -1
@cython.locals(head=RequestHead, started=cython.double, call=Call)
cpdef object record_of(ExchangeState exchange, str outcome, double now)
