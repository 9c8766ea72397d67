cimport cython

from fastgw.exchange.context cimport Context
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.filter cimport Filter
from fastgw.exchange.state cimport model_of
from fastgw.upstream.table cimport Group, UpstreamTable

@cython.locals(model=str)
cpdef Group serving(UpstreamTable table, Exchange exchange)

cdef class Route(Filter):
    @cython.locals(gateway=Context, group=Group)
    cpdef on_route(self, Exchange exchange)
