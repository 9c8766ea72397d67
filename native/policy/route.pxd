cimport cython

from fastgw.exchange.asking cimport hear
from fastgw.exchange.context cimport Context
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.filter cimport Filter
from fastgw.exchange.state cimport model_of
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group, UpstreamTable

@cython.locals(model=str, found=Group)
cpdef Group serving(UpstreamTable table, Exchange exchange)

@cython.locals(group=Group, pool=Pool)
cpdef regroup(UpstreamTable table, Exchange exchange)
cpdef Group placed(UpstreamTable table, Exchange exchange, str model)
cpdef Group group_for(UpstreamTable table, Exchange exchange, str model)
cpdef bint granted(UpstreamTable table, Exchange exchange, str model) except -1
cpdef Group for_any(UpstreamTable table, Exchange exchange)

@cython.locals(gateway=Context, found=Pool, model=str)
cpdef Pool home(Exchange exchange, Group group)

cpdef goes_to(Exchange exchange, Group group)

@cython.final
cdef class Route(Filter):
    @cython.locals(group=Group)
    cpdef on_route(self, Exchange exchange)
