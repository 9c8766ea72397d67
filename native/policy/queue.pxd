cimport cython

from fastgw.exchange.context cimport Context
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.filter cimport Filter
from fastgw.limits.account cimport Account
from fastgw.limits.crowd cimport Crowd
from fastgw.limits.drain cimport DrainRate
from fastgw.limits.fairqueue cimport FairQueue, Waiter
from fastgw.limits.meter cimport Meter
from fastgw.net.clock cimport micros, monotonic
from fastgw.policy.quota cimport expected_cost, take_back
from fastgw.net.timers cimport TimerWheel
from fastgw.policy.lanes cimport Lane, fit
from fastgw.policy.places cimport Place
from fastgw.stats cimport Stats
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group, UpstreamTable

cdef int BATCH
cdef double INTERVAL_S
cdef long long QUANTUM
cdef int DONE, QUEUES, RECEIVING

cdef class Queue(Filter):
    cdef dict _routes, _lanes, _again, _parked, _ready
    cdef object _on_capacity
    cdef DrainRate _drain
    cdef Crowd _crowd
    cdef double _timeout_s, _target_s
    cdef bint _adaptive, _bounded, _scheduled
    cdef long long _inflight, _max_concurrent, _queue_size, _queue_bytes, _turn
    cdef public long long waiting, waiting_bytes
    cdef list _by_class

    @cython.locals(account=Account, route=tuple)
    cpdef on_route(self, Exchange exchange)
    @cython.locals(lane=Lane, group=Group, found=Lane)
    cpdef Lane _lane(self, Exchange exchange, tuple route)
    @cython.locals(lane=Lane, queue=FairQueue, ahead=cython.bint)
    cpdef _enter(self, Exchange exchange, tuple route)
    cpdef _admit(self, Exchange exchange, Lane lane)
    cpdef bint _room(self, Lane lane, tuple tried) except -1
    @cython.locals(group=Group, before=Group, lane=Lane, account=Account)
    cpdef bint _fall_back(self, Exchange exchange, object route) except -1
    @cython.locals(account=Account, stats=Stats, place=Place, other=Exchange)
    cpdef _check_size(self, Exchange exchange)
    @cython.locals(place=Place, meter=Meter, account=Account, wait_s=cython.double, told_s=cython.double)
    cpdef object _refused(self, str kind, str message, Exchange exchange, long long ahead)
    @cython.locals(queue=FairQueue, place=Place)
    cpdef _wait_for_key(self, Exchange exchange, Account account, tuple route)
    cpdef FairQueue _new_queue(self)
    @cython.locals(queue=FairQueue)
    cpdef _wait(self, Exchange exchange, Lane lane)
    @cython.locals(exchange=Exchange, account=Account, now=cython.double)
    cpdef _put(self, Place place, FairQueue queue)
    @cython.locals(exchange=Exchange)
    cpdef _begin_to_wait(self, Place place, Account account, double now)
    @cython.locals(lane=Lane, queue=FairQueue, place=Place, account=Account)
    cpdef bint on_full(self, Exchange exchange) except -1
    @cython.locals(exchange=Exchange)
    cpdef late(self, Place place, str detail)
    @cython.locals(exchange=Exchange, meter=Meter, queue=FairQueue, waiter=Waiter, account=Account)
    cpdef _leave(self, Place place)
    @cython.locals(place=Place, account=Account)
    cpdef on_finish(self, Exchange exchange, str outcome)
    @cython.locals(lane=Lane)
    cpdef _give_back(self, Exchange exchange)
    @cython.locals(lane=Lane, place=Place, account=Account)
    cpdef on_room(self)
    @cython.locals(place=Place, exchange=Exchange, group=Group, gone=Group, lane=Lane, left=Lane, pool=Pool)
    cpdef follow(self, UpstreamTable before, UpstreamTable table)
    @cython.locals(waiter=Waiter)
    cpdef _move(self, Place place, Lane left, Lane lane)
    @cython.locals(waiter=Waiter, place=Place)
    cpdef _schedule_for(self, FairQueue queue)
    cpdef _schedule(self, Exchange exchange)
    @cython.locals(now=cython.double, account=Account, place=Place, lane=Lane, queue=FairQueue, waiter=Waiter, chosen=Place)
    cpdef look(self)
    @cython.locals(lane=Lane, best=Lane, best_class=cython.Py_ssize_t, queue=FairQueue, waiter=Waiter)
    cpdef Lane _next_lane(self, double now)
    @cython.locals(queue=FairQueue, place=Place, lane=Lane)
    cpdef _unpark(self, Account account, double now)
    @cython.locals(exchange=Exchange)
    cpdef _let_go(self, Place place)
