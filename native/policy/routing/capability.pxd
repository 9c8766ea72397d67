cimport cython

from fastgw.accel.lookup cimport first_in
from fastgw.exchange.context cimport Strategy
from fastgw.net.clock cimport monotonic
from fastgw.policy.routing.loads cimport Loads
from fastgw.policy.routing.search cimport search
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group
from fastgw.upstream.target cimport Engine

cdef class Fit:
    cdef public str model
    cdef public tuple pools
    cdef public list sizes
    cdef public dict tiers
    cdef public double until
    cdef public str unmet

cdef class Capability(Strategy):
    cdef tuple _names
    cdef dict _needs

    @cython.locals(tiers=list, start=cython.Py_ssize_t, loads=Loads, at=cython.Py_ssize_t)
    cpdef Pool pick(self, Group group, tuple tried, object exchange)
    @cython.locals(found=tuple, loads=Loads)
    cpdef tuple able(self, Group group, object exchange)
    cpdef str unmet(self, Group group, object exchange)
    cpdef bytes _said(self, object exchange)
    @cython.locals(said=bytes, model=str, fits=dict, key=tuple, fit=Fit)
    cpdef Fit _known(self, Group group, object exchange)

cpdef long long context_of(Engine engine, str model) except -1
cpdef bint is_cold(Engine engine, str model) except -1
@cython.locals(limit=cython.longlong)
cpdef object tokens_of(object exchange)
