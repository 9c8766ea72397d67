from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.filter cimport Filter

cdef class Auth(Filter):
    cdef dict _ids

    cpdef on_head(self, Exchange exchange)
