cimport cython

from fastgw.accel.lines cimport limit_lines
from fastgw.exchange.exchange cimport Exchange
from fastgw.exchange.filter cimport Filter
from fastgw.limits.account cimport Account
from fastgw.limits.meter cimport Meter
from fastgw.limits.scope cimport Scope
from fastgw.net.clock cimport micros

cdef double _undecided

@cython.final
cdef class RateLimit(Filter):
    @cython.locals(account=Account, meter=Meter, now_us=cython.longlong, left=cython.longlong, reset_us=cython.longlong,
                   wait_us=cython.longlong)
    cpdef on_request(self, Exchange exchange)
    @cython.locals(account=Account, joint=Scope)
    cpdef on_finish(self, Exchange exchange, str outcome)

@cython.locals(meter=Meter)
cpdef object too_many(Account account, double wait_s)
