cimport cython

from fastgw.exchange.context cimport Strategy
from fastgw.net.clock cimport monotonic
from fastgw.policy.routing.keys cimport Keys
from fastgw.policy.routing.least_loaded cimport by_load
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.seats cimport Part, Seat, Seats
from fastgw.upstream.table cimport Group

cdef class Session(Strategy):
    cdef Keys _keys
    cdef Py_ssize_t _most
    cdef Seats _sessions
    cdef double _ttl_s

    @cython.locals(told=bytes, sessions=Part, places=dict, key=str, now=cython.double, seat=Seat, pool=Pool)
    cpdef Pool pick(self, Group group, tuple tried, object exchange)

cpdef bytes told_of(bytes told, Group group, object exchange)
