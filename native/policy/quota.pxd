cimport cython

from fastgw.accel.bodies cimport BodyFacts
from fastgw.accel.lines cimport budget_lines, limit_lines
from fastgw.exchange.context cimport Context
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.figures cimport answers_of
from fastgw.exchange.filter cimport Filter
from fastgw.exchange.relay cimport Relay
from fastgw.exchange.state cimport model_of
from fastgw.limits.account cimport Account
from fastgw.limits.admission cimport Refusal, admit, broke, lacking_of, refusal, spent, to_end_s, wait_whatever_it_costs_s
from fastgw.limits.ledger cimport Ledger
from fastgw.limits.meter cimport Meter
from fastgw.limits.purse cimport Hold, Purse, left_of
from fastgw.limits.scope cimport Share
from fastgw.limits.spending cimport Books, Price
from fastgw.net.clock cimport micros, monotonic
from fastgw.policy.scopes cimport day_left, limits_tokens, minute_left, shares_of, tell

cdef str RESPONSES
cdef long long MOST_TOKENS, MOST_TOLD, NO_LIMIT
cdef int OF_RESPONSES, OF_ALL

@cython.locals(facts=BodyFacts, bits=cython.int)
cpdef refuse_uncounted(Exchange exchange)
cpdef long long total(long long prompt, long long answer, long long answers) except -1
@cython.locals(facts=BodyFacts, answer=cython.longlong)
cpdef long expected_cost(Exchange exchange) except -1
@cython.locals(facts=BodyFacts, answer=cython.longlong, cost=cython.longlong, prompt=cython.longlong, left=cython.longlong)
cpdef long long untold_cost(Exchange exchange, Account account) except -1

@cython.locals(books=Books)
cpdef Price price_for(Exchange exchange, Account account)
@cython.locals(price=Price)
cdef Price _dearest(Exchange exchange, Books books, object models)
@cython.locals(made=Hold)
cpdef Hold hold_for(Account account, Price price, long long prompt, long long answers)
@cython.locals(dearer=cython.longlong)
cpdef Hold untold_hold(Account account, Price price, long long tokens)
@cython.locals(purse=Purse, shared=Purse, left=cython.longlong)
cpdef bytes with_budget(bytes before, Account account, long long today)

@cython.final
cdef class Quota(Filter):
    @cython.locals(account=Account, wait_s=cython.double, now_us=cython.longlong, purse=Purse)
    cpdef on_request(self, Exchange exchange)
    @cython.locals(account=Account, facts=BodyFacts, prompt=cython.longlong, cost=cython.longlong,
                   today=cython.longlong, meter=Meter, ledger=Ledger, answers=cython.longlong, named=cython.longlong,
                   bound=cython.longlong, least=cython.longlong, left=cython.longlong, usual=cython.longlong,
                   cut=cython.bint, by_day=cython.bint, gateway=Context, price=Price,
                   afford=cython.longlong, hold=Hold, shares=tuple, of_day=cython.longlong, now_us=cython.longlong)
    cpdef on_body(self, Exchange exchange)
    @cython.locals(meter=Meter, now_us=cython.longlong)
    cpdef _check_debt(self, Exchange exchange, Account account)
    @cython.locals(account=Account)
    cpdef on_route(self, Exchange exchange)
    @cython.locals(minute=cython.longlong, daily=cython.longlong, hold=Hold, share=Share)
    cpdef _admit_untold(self, Exchange exchange, Account account, Price price)
    @cython.locals(meter=Meter, now=cython.double, now_us=cython.longlong, today=cython.longlong, money=cython.longlong,
                   shares=tuple)
    cpdef _admit(self, Exchange exchange, Account account, long long minute, long long daily, Hold hold)
    @cython.locals(meter=Meter)
    cdef _tell(self, Exchange exchange, Account account, long long now_us, bint tokens)
    @cython.locals(meter=Meter, found=Refusal, purse=Purse, to_midnight_s=cython.double)
    cpdef _refuse(self, Exchange exchange, Account account, long long now_us, long long minute, long long daily,
                  long long money)
    @cython.locals(account=Account, relay=Relay, more=cython.longlong, passed=cython.longlong,
                   had=cython.longlong, today=cython.longlong, hold=Hold, ledger=Ledger, share=Share)
    cpdef bint on_allowance(self, Exchange exchange) except -1

@cython.locals(account=Account, now_us=cython.longlong, minute=cython.longlong, daily=cython.longlong, found=Refusal,
               money=cython.longlong, share=Share, to_midnight_s=cython.double)
cpdef double take_back(Exchange exchange, Meter meter, double since) except -1
