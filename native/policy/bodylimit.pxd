cimport cython

from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.filter cimport Filter

@cython.final
cdef class BodyLimit(Filter):
    cdef long long _body_bytes, _upload_bytes

    cpdef on_head(self, Exchange exchange)
