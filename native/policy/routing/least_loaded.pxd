cimport cython

from fastgw.exchange.context cimport Strategy
from fastgw.policy.routing.search cimport search
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group
from fastgw.upstream.target cimport Engine


cdef class LeastLoaded(Strategy):
    @cython.locals(pools=tuple, count=cython.Py_ssize_t, start=cython.Py_ssize_t, step=cython.Py_ssize_t, at=cython.Py_ssize_t, best=cython.Py_ssize_t, by_slots=bint, pool=Pool, engine=Engine, load=cython.longlong, room=cython.longlong, best_load=cython.longlong, best_room=cython.longlong)
    cpdef Pool pick(self, Group group, tuple tried, object exchange)
