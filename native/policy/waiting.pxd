cimport cython

from fastgw.exchange.exchange cimport Exchange
from fastgw.limits.account cimport Account
from fastgw.limits.crowd cimport Crowd
from fastgw.limits.fairqueue cimport FairQueue, Waiter
from fastgw.limits.meter cimport Meter
from fastgw.limits.scope cimport Scope, hold_requests, holder, settle_requests
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

    @cython.locals(scope=Scope, shares=tuple, region=object)
    cpdef Scope take(self, Exchange exchange, Account account)
    @cython.locals(scope=Scope, shares=tuple)
    cpdef give_back(self, Exchange exchange, Account account)
    @cython.locals(now=cython.double)
    cpdef park(self, Place place, Account account, Scope scope)
    @cython.locals(queue=FairQueue, flow=str)
    cdef _park(self, Place place, Account account, Scope scope, double now)
    @cython.locals(now=cython.double)
    cpdef in_lane(self, Place place, Account account)
    @cython.locals(cost=cython.longlong)
    cdef _line_up(self, Place place, Account account, double now)
    cpdef unpark(self, Scope scope, double now)
    cpdef bint has_room(self, Scope scope) except -1
    @cython.locals(queue=FairQueue, place=Place, exchange=Exchange, account=Account, full=Scope)
    cdef _unpark(self, Scope scope, double now)
    @cython.locals(left=Lane, waiter=Waiter)
    cpdef move(self, Place place, Lane lane)
    cpdef FairQueue _new_queue(self)
    cpdef bint _outdated(self, FairQueue queue) except -1
    @cython.locals(queue=FairQueue)
    cpdef FairQueue _queue_of(self, Lane lane)
    @cython.locals(exchange=Exchange, fresh=cython.bint)
    cpdef _begin(self, Place place, Account account, double now)
    @cython.locals(queue=FairQueue, place=Place)
    cpdef Place take_first(self, Lane lane, double now)
    cpdef _emptied(self, Lane lane)
    @cython.locals(exchange=Exchange, queue=FairQueue, waiter=Waiter, scope=Scope, account=Account)
    cpdef leave(self, Place place)
