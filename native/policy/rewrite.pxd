from fastgw.exchange.filter cimport Filter
from fastgw.exchange.state cimport ExchangeState
from fastgw.upstream.target cimport Engine

cdef class Rewriting(Filter):
    cdef bint _ask_usage

    cpdef bytes rewrite(self, ExchangeState exchange, Engine engine, bytes body)
