cimport cython

from fastgw.exchange.context cimport Judgement
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.filter cimport Filter
from fastgw.limits.meter cimport Meter, Meters
from fastgw.net.clock cimport micros, monotonic

@cython.final
cdef class IpLimit(Filter):
    cdef public Meters meters

    @cython.locals(meter=Meter, known=Judgement, now_us=cython.longlong)
    cpdef on_arrival(self, Exchange exchange)
