cimport cython

from fastgw.accel.hashing cimport digest
from fastgw.exchange.context cimport Strategy
from fastgw.policy.routing.keys cimport Keys
from fastgw.policy.routing.least_loaded cimport by_load
from fastgw.policy.routing.loads cimport Loads, loads_of
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group

cdef long long ABOVE

cdef class ConsistentHash(Strategy):
    cdef Keys _keys
    cdef long long _bound_percent

    @cython.locals(
        told=bytes, entries=list, loads=Loads, number=cython.longlong, size=cython.longlong, at=cython.longlong, skip=cython.longlong,
        pools=tuple, place=cython.Py_ssize_t, pool=Pool, most=cython.longlong,
    )
    cpdef Pool pick(self, Group group, tuple tried, object exchange)

@cython.locals(
    entries=list, credit=list, most=cython.longlong, left=cython.longlong, turn=cython.Py_ssize_t, have=cython.longlong,
    at=cython.Py_ssize_t, skip=cython.Py_ssize_t,
)
cpdef list _filled(Py_ssize_t size, list order, list nexts, list skips, list weights)
