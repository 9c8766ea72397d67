cimport cython

from fastgw.exchange.context cimport Strategy
from fastgw.exchange.state cimport ExchangeState
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group

cdef class ByRoute(Strategy):
    cdef Strategy _usual
    cdef dict _own

    cpdef Pool pick(self, Group group, tuple tried, object exchange)
    @cython.locals(strategy=Strategy)
    cpdef Strategy chosen(self, object exchange)
