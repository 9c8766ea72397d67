cimport cython

from fastgw.exchange.exchange cimport Exchange
from fastgw.limits.fairqueue cimport Waiter
from fastgw.limits.meter cimport Meter
from fastgw.limits.scope cimport Scope
from fastgw.net.timers cimport Timed
from fastgw.policy.lanes cimport Lane

@cython.final
cdef class Place(Timed):
    cdef public object owner
    cdef public Exchange exchange
    cdef public Lane lane
    cdef public Waiter waiter
    cdef public Meter meter
    cdef public Py_ssize_t size
    cdef public Scope parked
    cdef public tuple shares
    cdef public bint beside
    cdef public str flow
    cdef public int priority
