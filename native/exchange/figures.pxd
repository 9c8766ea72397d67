cimport cython

from fastgw.accel.bodies cimport BodyFacts
from fastgw.accel.heads cimport ResponseHead
from fastgw.accel.sse cimport SseScanner
from fastgw.accel.usage cimport UsageScanner, names_error, seconds_in, usage_in
from fastgw.exchange.relay cimport Relay
from fastgw.exchange.state cimport ExchangeState
from fastgw.protocol.body cimport Source

cdef int AT_A_MARK, AT_A_REASON
cdef str COMPLETIONS
cdef long long MOST_CHOICES, NO_LIMIT, UNTOLD

cpdef bint coded(ResponseHead head) except -1
@cython.locals(sse=SseScanner, relay=Relay, open_ended=cython.bint, ends=cython.int)
cpdef Relay relay_for(ExchangeState exchange, ResponseHead head, Source source, bytes extra, object show, bint changes)
@cython.locals(sse=SseScanner)
cpdef read_off(ExchangeState exchange, Relay relay, str outcome, double now)
@cython.locals(sse=SseScanner, passed=cython.longlong, several=cython.bint, early=cython.bint)
cpdef told(ExchangeState exchange, Relay relay, str outcome)
@cython.locals(facts=BodyFacts, answers=cython.longlong)
cpdef long long answers_of(ExchangeState exchange) except -1
@cython.locals(facts=BodyFacts)
cpdef allow(ExchangeState exchange, Relay relay)
cpdef str spent_kind(ExchangeState exchange)
cpdef object dialect_of(ExchangeState exchange, ResponseHead head)
@cython.locals(scanner=UsageScanner, fine=cython.bint)
cpdef bytes read_whole(ExchangeState exchange, ResponseHead head, bytes body)
cpdef heard(ExchangeState exchange, long long seconds)
