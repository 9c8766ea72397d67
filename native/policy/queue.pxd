cimport cython

from fastgw.exchange.asking cimport hear
from fastgw.exchange.context cimport Strategy
from fastgw.exchange.endpoints cimport Endpoint
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.filter cimport Filter
from fastgw.exchange.state cimport model_of
from fastgw.limits.account cimport Account
from fastgw.limits.drain cimport DrainRate
from fastgw.limits.fairqueue cimport FairQueue, Waiter
from fastgw.limits.scope cimport Scope
from fastgw.net.clock cimport monotonic
from fastgw.policy.lanes cimport Lane, Terms, fit, makes_room
from fastgw.policy.route cimport granted, group_for, regroup
from fastgw.policy.places cimport Place, given_up
from fastgw.policy.waiting cimport Waiting
from fastgw.stats cimport Stats
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group, UpstreamTable

cdef int BATCH
cdef int DONE

@cython.final
cdef class Queue(Filter):
    cdef Waiting _all
    cdef dict _routes
    cdef DrainRate _drain
    cdef double _timeout_s
    cdef bint _bounded, _rejects, _scheduled
    cdef long long _inflight, _max_concurrent, _queue_size, _queue_bytes, _turn

    @cython.locals(account=Account, endpoint=Endpoint, route=Lane, limit_s=cython.double, full=Scope)
    cpdef on_route(self, Exchange exchange)
    @cython.locals(lane=Lane, group=Group, found=Lane, lanes=dict)
    cpdef Lane _lane(self, Exchange exchange, Lane route)
    @cython.locals(home=Pool, pools=tuple, tried=tuple)
    cpdef tuple _left(self, Exchange exchange)
    @cython.locals(exchange=Exchange, lane=Lane)
    cpdef _move(self, Place place)
    @cython.locals(lane=Lane, queue=FairQueue, line=Lane, ahead=cython.bint)
    cpdef _enter(self, Exchange exchange, Lane route)
    @cython.locals(left=tuple)
    cpdef Lane _line(self, Exchange exchange, Lane lane)
    cpdef _admit(self, Exchange exchange, Lane lane)
    @cython.locals(exchange=Exchange)
    cpdef bint _room(self, Lane lane, Place place=*) except -1
    @cython.locals(group=Group, before=Group, lane=Lane, account=Account, table=UpstreamTable)
    cpdef bint _fall_back(self, Exchange exchange, object models) except -1
    @cython.locals(lane=Lane)
    cpdef bint on_lost(self, Exchange exchange, str why) except -1
    @cython.locals(account=Account, stats=Stats, place=Place, other=Exchange, waiting=Waiting)
    cpdef _check_size(self, Exchange exchange)
    @cython.locals(wait_s=cython.double, told_s=cython.double)
    cpdef object _refused(self, str kind, str message, Exchange exchange, long long ahead)
    @cython.locals(lane=Lane)
    cpdef _wait_for(self, Exchange exchange, Account account, Scope full, Lane route)
    @cython.locals(account=Account, place=Place)
    cpdef _wait(self, Exchange exchange, Lane lane, bint beside)
    @cython.locals(lane=Lane, group=Group)
    cpdef bint on_full(self, Exchange exchange) except -1
    @cython.locals(exchange=Exchange)
    cpdef late(self, Place place, str detail)
    @cython.locals(place=Place, account=Account)
    cpdef on_finish(self, Exchange exchange, str outcome)
    cpdef _give_back(self, Exchange exchange, double now)
    @cython.locals(lane=Lane)
    cpdef _free(self, Exchange exchange)
    @cython.locals(lane=Lane, place=Place, scope=Scope, waiting=Waiting)
    cpdef on_room(self)
    cpdef follow_settings(self, object config)
    @cython.locals(place=Place, exchange=Exchange, group=Group, gone=Group, there=Group, lane=Lane, pool=Pool)
    cpdef follow(self, UpstreamTable before, UpstreamTable table)
    @cython.locals(waiter=Waiter, place=Place)
    cpdef _schedule_for(self, FairQueue queue)
    cpdef _schedule(self, Exchange exchange)
    @cython.locals(now=cython.double, place=Place, lane=Lane, waiting=Waiting)
    cpdef look(self)
    @cython.locals(lane=Lane, best=Lane, best_class=cython.Py_ssize_t, queue=FairQueue, waiter=Waiter)
    cpdef Lane _next_lane(self, double now)
    @cython.locals(exchange=Exchange)
    cpdef _let_go(self, Place place)
