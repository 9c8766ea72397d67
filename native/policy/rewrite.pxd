cimport cython

from fastgw.accel.bodies cimport BodyFacts, with_member
from fastgw.exchange.filter cimport Filter
from fastgw.exchange.state cimport ExchangeState
from fastgw.upstream.kinds.kind cimport Kind
from fastgw.upstream.target cimport Engine

cdef str CHAT, RESPONSES
cdef long long NO_LIMIT, MOST_CHOICES
cdef int TOKENS, COMPLETION_TOKENS, OUTPUT_TOKENS

@cython.locals(named=cython.int, own=cython.int, names=tuple)
cpdef bytes bounded(bytes body, BodyFacts facts, long long bound, str label, Kind kind)

cdef class Rewriting(Filter):
    cdef bint _ask_usage
    cdef bytes _said
    cdef long long _said_bound
    cdef Kind _said_kind
    cdef str _said_label

    cpdef bytes rewrite(self, ExchangeState exchange, Engine engine, bytes body)
    @cython.locals(bound=cython.longlong)
    cpdef bytes _bounded(self, ExchangeState exchange, BodyFacts facts, Engine engine, bytes body)
