cimport cython

from fastgw.exchange.context cimport Strategy
from fastgw.net.clock cimport monotonic
from fastgw.policy.routing.keys cimport Keys
from fastgw.policy.routing.least_loaded cimport by_load
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group

@cython.final
cdef class Seat:
    cdef public str name
    cdef public double until

@cython.final
cdef class Sessions:
    cdef public dict memory, places, seats

cdef class Session(Strategy):
    cdef Keys _keys
    cdef Py_ssize_t _most
    cdef double _ttl_s

    @cython.locals(told=bytes, sessions=Sessions, seats=dict, now=cython.double, seat=Seat, pool=Pool)
    cpdef Pool pick(self, Group group, tuple tried, object exchange)
