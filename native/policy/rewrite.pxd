cimport cython

from fastgw.accel.bodies cimport BodyFacts, place_in, span_of, with_member
from fastgw.exchange.filter cimport Filter
from fastgw.exchange.state cimport ExchangeState, model_of
from fastgw.upstream.kinds.kind cimport Kind
from fastgw.upstream.target cimport Engine

cdef str CHAT, RESPONSES
cdef long long NO_LIMIT, MOST_CHOICES
cdef Py_ssize_t LEAD_BYTES
cdef int TOKENS, COMPLETION_TOKENS, OUTPUT_TOKENS

@cython.locals(named=cython.int, own=cython.int, names=tuple)
cpdef bytes bounded(bytes body, BodyFacts facts, long long bound, str label, Kind kind)

@cython.locals(at=Py_ssize_t, lead=bytes)
cpdef bytes put(ExchangeState exchange, bytes body, bytes member)
@cython.locals(start=Py_ssize_t, end=Py_ssize_t, skip=Py_ssize_t)
cpdef bytes renamed(ExchangeState exchange, bytes body, BodyFacts facts, str name)

@cython.final
cdef class Rewriting(Filter):
    cdef bint _ask_usage
    cdef bytes _said
    cdef long long _said_bound
    cdef Kind _said_kind
    cdef str _said_label

    cpdef bytes rewrite(self, ExchangeState exchange, Engine engine, bytes body)
    @cython.locals(bound=cython.longlong)
    cpdef bytes _bounded(self, ExchangeState exchange, BodyFacts facts, Engine engine, bytes body)
