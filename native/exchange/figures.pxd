cimport cython

from fastgw.accel.sse cimport SseScanner
from fastgw.accel.usage cimport seconds_in, usage_in
from fastgw.exchange.relay cimport Relay
from fastgw.exchange.state cimport ExchangeState

@cython.locals(sse=SseScanner, passed=cython.longlong, early=cython.bint)
cpdef read_off(ExchangeState exchange, Relay relay, str outcome, double now)
cpdef read_whole(ExchangeState exchange, bytes body)
cpdef heard(ExchangeState exchange, long long seconds)
