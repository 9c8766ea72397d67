cimport cython

from fastgw.exchange.context cimport Strategy
from fastgw.net.clock cimport monotonic
from fastgw.policy.routing.keys cimport Keys
from fastgw.policy.routing.least_loaded cimport by_load
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group

cdef int AT_ONCE, _HIGH

@cython.final
cdef class Seat:
    cdef public str name
    cdef public double until

@cython.final
cdef class Part:
    cdef public Py_ssize_t count
    cdef public dict seats
    cdef dict _ranks
    cdef Py_ssize_t _most

    cpdef Seat seat(self, str key, object told)
    cpdef put(self, str key, object told, Seat seat, Py_ssize_t most)
    cpdef drop(self, str key, object told)
    cpdef used(self, str key, object told)
    cdef _rank(self, str key, Py_ssize_t before, Py_ssize_t now)

@cython.final
cdef class Sessions:
    cdef Py_ssize_t _mask
    cdef public list parts

    cpdef Part part(self, Py_ssize_t told)
    cpdef Py_ssize_t share(self, Py_ssize_t most) except -1

cdef class Session(Strategy):
    cdef Keys _keys
    cdef Py_ssize_t _most
    cdef Sessions _sessions
    cdef double _ttl_s

    @cython.locals(told=bytes, sessions=Part, places=dict, key=str, now=cython.double, seat=Seat, pool=Pool)
    cpdef Pool pick(self, Group group, tuple tried, object exchange)

cpdef object told_of(bytes told, Group group, object exchange)
