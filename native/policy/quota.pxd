cimport cython

from fastgw.accel.bodies cimport BodyFacts
from fastgw.accel.lines cimport limit_lines
from fastgw.exchange.context cimport Context
from fastgw.exchange.endpoints cimport Endpoint
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.filter cimport Filter
from fastgw.exchange.relay cimport Relay
from fastgw.limits.account cimport Account
from fastgw.limits.ledger cimport Ledger
from fastgw.limits.meter cimport Meter
from fastgw.net.clock cimport micros

cdef long long MOST_CHOICES, MOST_TOKENS, NO_LIMIT

@cython.locals(facts=BodyFacts, answers=cython.longlong)
cpdef long long answers_of(Exchange exchange) except -1
cpdef long long total(long long prompt, long long answer, long long answers) except -1
@cython.locals(facts=BodyFacts, answer=cython.longlong)
cpdef long expected_cost(Exchange exchange) except -1

cdef class Quota(Filter):
    @cython.locals(account=Account)
    cpdef on_request(self, Exchange exchange)
    @cython.locals(account=Account, facts=BodyFacts, prompt=cython.longlong, cost=cython.longlong, granted=cython.longlong,
                   today=cython.longlong, meter=Meter, ledger=Ledger, answers=cython.longlong, named=cython.longlong,
                   bound=cython.longlong, least=cython.longlong, room=cython.longlong, cut=bint, gateway=Context)
    cpdef on_body(self, Exchange exchange)
    @cython.locals(meter=Meter, now_us=cython.longlong, wait_us=cython.longlong)
    cpdef _take_minute(self, Exchange exchange, Account account, long long cost)
    @cython.locals(account=Account, relay=Relay, more=cython.longlong, passed=cython.longlong)
    cpdef bint on_allowance(self, Exchange exchange) except -1
