cimport cython

from fastgw.accel.bodies cimport BodyFacts
from fastgw.accel.heads cimport ResponseHead
from fastgw.accel.sse cimport SseScanner
from fastgw.accel.tokens cimport estimate
from fastgw.exchange.call cimport Call
from fastgw.exchange.context cimport Context
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.figures cimport answers_of, coded
from fastgw.exchange.filter cimport Filter
from fastgw.exchange.relay cimport Relay
from fastgw.exchange.state cimport model_of
from fastgw.limits.account cimport Account
from fastgw.limits.ledger cimport Ledger
from fastgw.limits.meter cimport Meter
from fastgw.limits.purse cimport Hold, Purse
from fastgw.limits.scope cimport Share
from fastgw.limits.spending cimport Books, Use
from fastgw.net.clock cimport micros, monotonic
from fastgw.policy.scopes cimport settle_shares
from fastgw.stats cimport Stats
from fastgw.upstream.pool cimport Pool

cdef str COMPLETIONS, MESSAGES
cdef int FRAME_BYTES
cdef long long MOST_CHOICES, MOST_TOKENS, NO_LIMIT

@cython.locals(prompt=cython.longlong, completion=cython.longlong)
cdef _bound(Exchange exchange)
cdef bint _only_error(Exchange exchange, ResponseHead response, str outcome) except -1
cpdef Relay relay_of(Exchange exchange)
@cython.locals(facts=BodyFacts)
cpdef long long prompt_of(Exchange exchange) except -1
@cython.locals(facts=BodyFacts, relay=Relay, size=cython.longlong, tokens=cython.longlong, most=cython.longlong,
               packed=bint)
cpdef long long produced(Exchange exchange, ResponseHead response) except -1

cdef _spend(Context gateway, Purse purse, long long cost)
@cython.locals(known=str, use=Use)
cdef Use _use_of(Context gateway, Account account, str model)

cpdef settle(Exchange exchange, Account account, double now, long long prompt, long long completion, long long cached,
             long long reasoning, bint estimated)
@cython.locals(gateway=Context, stats=Stats, ledger=Ledger, meter=Meter, now_us=cython.longlong, books=Books, hold=Hold, model=str,
               cost=cython.longlong)
cdef _settled(Exchange exchange, Account account, double now, long long prompt, long long completion, long long cached,
              long long reasoning, bint estimated)

@cython.final
cdef class Charge(Filter):
    @cython.locals(account=Account, call=Call, head=ResponseHead, goes_on=bint, share=Share)
    cpdef on_finish(self, Exchange exchange, str outcome)
    cpdef _count_rest(self, Exchange exchange, Call call, object remainder)
    cpdef _settle(self, Exchange exchange, Account account, double now)
    @cython.locals(own=str)
    cpdef _count(self, Exchange exchange, ResponseHead response, str outcome)
    @cython.locals(
        facts=BodyFacts, relay=Relay, sse=SseScanner, answers=cython.longlong, pool=Pool, passed=cython.longlong, prompts=cython.longlong
    )
    cpdef _of_all(self, Exchange exchange)
