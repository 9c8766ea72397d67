cimport cython

from fastgw.exchange.context cimport Strategy
from fastgw.policy.routing.search cimport search
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group

cdef object ROUND, _BITS, _WHOSE
cdef Py_ssize_t PASSED

@cython.final
cdef class Turns:
    cdef public bint even
    cdef public tuple pools
    cdef public Py_ssize_t at
    cdef list _due, _steps

    @cython.locals(made=Turns)
    cpdef Turns apart(self)
    @cython.locals(due=list, passed=list, at=cython.Py_ssize_t, pool=Pool, place=cython.Py_ssize_t)
    cpdef Pool next(self, tuple tried)

cdef class RoundRobin(Strategy):
    @cython.locals(turns=Turns, pool=Pool, pools=tuple, at=cython.Py_ssize_t)
    cpdef Pool pick(self, Group group, tuple tried, object exchange)

@cython.locals(known=dict, found=Turns)
cpdef Turns turns_of(Group group, str model)
