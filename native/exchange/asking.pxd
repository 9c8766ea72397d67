cimport cython

from fastgw.exchange.attempt cimport Attempt, attempt_for
from fastgw.exchange.call cimport Call
from fastgw.exchange.context cimport Context
from fastgw.exchange.plan cimport another
from fastgw.exchange.state cimport ExchangeState
from fastgw.limits.breaker cimport Breaker
from fastgw.net.clock cimport monotonic
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group
from fastgw.upstream.target cimport Engine

cdef int BACKS_OFF, CLOSED, DIALS, FRESH, HTTP1, NO, PROBE, UPGRADE

@cython.locals(
    gateway=Context, group=Group, before=Group, home=Pool, pool=Pool, breaker=Breaker, call=Attempt, now=cython.double, admitted=cython.int,
    connected=cython.bint, light=cython.bint,
)
cpdef ask(ExchangeState exchange)
@cython.locals(gateway=Context, unmet=str)
cpdef bint _waits(ExchangeState exchange, Group group, object failure) except -1
@cython.locals(engine=Engine)
cpdef bint takes(Pool pool, bint light=*) except -1
@cython.locals(best=Pool, pool=Pool, engine=Engine)
cpdef Pool _busy(ExchangeState exchange, Group group)
@cython.locals(before=Group, group=Group)
cpdef Group _goes_elsewhere(ExchangeState exchange)
cpdef object _away(ExchangeState exchange, Pool home)
cpdef hear(ExchangeState exchange, Group group, str model)
cpdef _judge(Call call, int status)
@cython.locals(pool=Pool, other=Pool, now=cython.double)
cpdef Pool _spared(ExchangeState exchange, Group group, Pool pool)
@cython.locals(call=Attempt)
cpdef Attempt _call(ExchangeState exchange, Pool pool, bint probe)
@cython.locals(group=Group)
cpdef bint _waits_for_room(ExchangeState exchange) except -1
@cython.locals(gateway=Context, barred=cython.int, bound=cython.longlong)
cpdef bint _elsewhere(ExchangeState exchange, str why) except -1
cpdef _at_once(ExchangeState exchange)
@cython.locals(call=Call, pool=Pool, now=cython.double, in_http1=cython.bint, passed=cython.bint, not_taken=cython.bint,
               moves=cython.bint, alone=cython.bint, others=cython.bint)
cpdef call_failed(ExchangeState exchange, object failure, bint begun, str detail, object error)
cpdef Group _group(ExchangeState exchange)
@cython.locals(call=Attempt, connected=cython.bint)
cpdef bint _again(ExchangeState exchange, Pool pool, int fresh, bint counted) except -1
cpdef bint _goes_on(ExchangeState exchange, object step, Pool pool) except -1
cpdef bint _at_hand(ExchangeState exchange) except -1
cpdef bint _retries(ExchangeState exchange) except -1
cpdef _back_off(ExchangeState exchange, int time)
@cython.locals(call=Call)
cpdef bint _asks_one_more(ExchangeState exchange, int status, bint moves) except -1
@cython.locals(call=Call, moves=cython.bint, retried=cython.bint)
cpdef bint asks_another(ExchangeState exchange, int status) except -1
@cython.locals(call=Call)
cpdef bint asks_for_less(ExchangeState exchange) except -1
