cimport cython

from fastgw.exchange.exchange cimport Exchange
from fastgw.limits.account cimport Account
from fastgw.limits.fairqueue cimport Waiter
from fastgw.limits.meter cimport Meter
from fastgw.limits.scope cimport Scope, give_requests, settle_requests
from fastgw.net.clock cimport micros, monotonic
from fastgw.net.timers cimport Timed
from fastgw.policy.lanes cimport Lane
from fastgw.policy.quota cimport take_back

cdef int RECEIVING

@cython.locals(place=Place, account=Account, meter=Meter)
cpdef double given_up(Exchange exchange) except -1

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
