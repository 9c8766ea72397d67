cimport cython

from fastgw.exchange.exchange cimport Exchange
from fastgw.limits.account cimport Account
from fastgw.limits.crowd cimport Crowd
from fastgw.limits.fairqueue cimport FairQueue, Waiter
from fastgw.limits.meter cimport Meter
from fastgw.net.clock cimport micros, monotonic
from fastgw.policy.lanes cimport Lane
from fastgw.policy.places cimport Place
from fastgw.policy.quota cimport expected_cost

cdef double INTERVAL_S
cdef long long QUANTUM
cdef int QUEUES, RECEIVING

@cython.final
cdef class Waiting:
    cdef double _target_s, _timeout_s
    cdef bint _adaptive
    cdef public Crowd crowd
    cdef public dict lanes, parked, ready
    cdef public list by_class
    cdef public long long count, size_bytes

    cpdef for_key(self, Place place, Account account)
    cpdef in_lane(self, Place place, Account account)
    @cython.locals(queue=FairQueue, place=Place, cost="long long")
    cpdef unpark(self, Account account, double now)
    @cython.locals(left=Lane, waiter=Waiter)
    cpdef move(self, Place place, Lane lane)
    cpdef FairQueue _new_queue(self)
    cpdef bint _outdated(self, FairQueue queue) except -1
    @cython.locals(queue=FairQueue)
    cpdef FairQueue _queue_of(self, Lane lane)
    @cython.locals(now=cython.double)
    cpdef _put(self, Place place, Account account, FairQueue queue)
    @cython.locals(exchange=Exchange, fresh=cython.bint)
    cpdef _begin(self, Place place, Account account, double now)
    @cython.locals(queue=FairQueue, place=Place)
    cpdef Place take_first(self, Lane lane, double now)
    cpdef _emptied(self, Lane lane)
    @cython.locals(exchange=Exchange, meter=Meter, queue=FairQueue, waiter=Waiter, account=Account)
    cpdef leave(self, Place place)
