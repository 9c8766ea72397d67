cimport cython

from fastgw.accel.bodies cimport BodyFacts
from fastgw.exchange.endpoints cimport Endpoint
from fastgw.exchange.filter cimport Filter
from fastgw.exchange.state cimport ExchangeState
from fastgw.upstream.target cimport Engine

cdef long long NO_LIMIT, MOST_CHOICES
cdef int TOKENS, COMPLETION_TOKENS, OUTPUT_TOKENS

cdef class Rewriting(Filter):
    cdef bint _ask_usage

    cpdef bytes rewrite(self, ExchangeState exchange, Engine engine, bytes body)
    @cython.locals(facts=BodyFacts, bound=cython.longlong, named=cython.int, own=cython.int, label=str)
    cdef bytes _bounded(self, ExchangeState exchange, Engine engine, bytes body)
