cimport cython

from fastgw.exchange.context cimport Strategy
from fastgw.policy.routing.loads cimport Loads, loads_of
from fastgw.policy.routing.search cimport search
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group


cdef class LeastLoaded(Strategy):
    cdef int _unit

    cpdef Pool pick(self, Group group, tuple tried, object exchange)

@cython.locals(pools=tuple, count=cython.Py_ssize_t, start=cython.Py_ssize_t, at=cython.Py_ssize_t, best=cython.Py_ssize_t, loads=Loads)
cpdef Pool by_load(Group group, tuple tried, int unit)
