cimport cython

from fastgw.accel.bodies cimport BodyFacts, prompt_span
from fastgw.accel.prefixes cimport Prefixes
from fastgw.exchange.context cimport Strategy
from fastgw.policy.routing.least_loaded cimport by_load
from fastgw.policy.routing.loads cimport Loads, loads_of
from fastgw.stats cimport Stats
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group
from fastgw.upstream.watch cimport Watch

cdef int TOKENS
cdef long long FEW

@cython.final
cdef class Known:
    cdef public object of
    cdef public list slots
    cdef public dict places
    cdef public Loads loads

cdef class PrefixAware(Strategy):
    cdef bytes _secret
    cdef long long _most_bytes, _cache_bytes, _balance_percent
    cdef Stats _stats
    cdef Prefixes _prefixes
    cdef dict _remembered
    cdef object _of

    @cython.locals(
        known=Known, prefixes=Prefixes, size=cython.longlong, tokens=cython.longlong, loads=Loads, pool=Pool, other=Pool,
        stats=Stats, cached=cython.longlong, found=cython.Py_ssize_t, place=cython.Py_ssize_t, cost=cython.longlong, refused=bint,
        better=cython.Py_ssize_t, number=cython.Py_ssize_t, slot=cython.Py_ssize_t, at=cython.Py_ssize_t, held=cython.longlong,
        less=cython.longlong,
    )
    cpdef Pool pick(self, Group group, tuple tried, object exchange)
    @cython.locals(found=Prefixes)
    cdef Prefixes _begin(self)

@cython.locals(watch=Watch)
cpdef Py_ssize_t to_do(Pool pool) except -1
@cython.locals(body=bytes, start=cython.Py_ssize_t, end=cython.Py_ssize_t)
cpdef Py_ssize_t look(Prefixes prefixes, object exchange) except -1
