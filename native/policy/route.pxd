from fastgw.exchange.context cimport Context
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.filter cimport Filter
from fastgw.upstream.table cimport Group

cdef class Route(Filter):
    cpdef on_route(self, Exchange exchange)
