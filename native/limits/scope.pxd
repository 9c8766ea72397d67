cimport cython

from fastgw.limits.meter cimport Meter
from fastgw.limits.purse cimport Purse
from fastgw.limits.shared cimport Record

cdef class Scope:
    cdef public long long concurrency, inflight
    cdef public str id, kind
    cdef public Meter requests, tokens
    cdef public Purse day
    cdef public object parked
    cdef public Record record

    cpdef bint limit(self, object limits, tuple day_of, tuple models, long long now_us) except -1
    cpdef bint room(self) except -1
    cpdef charge(self, long long today, long long now_us, long long used)
    @cython.locals(meter=Meter)
    cpdef bint idle(self, long long now_us, long long today) except -1

@cython.final
cdef class Share:
    cdef public Scope scope
    cdef public Meter requests, tokens
    cdef public Purse day
    cdef public long long daily, minute
    cdef public bint taken, untold

    @cython.locals(tokens=Meter)
    cpdef long needs(self, long long cost) except -1
    @cython.locals(scope=Scope, day=Purse, tokens=Meter, requests=Meter, minute=cython.longlong)
    cpdef bint take(self, long long today, long long now_us, long long cost) except -1
    cpdef give(self, long long now_us)
    cpdef release(self, long long now_us, long long since_us)
    @cython.locals(scope=Scope, taken=Meter)
    cpdef settle(self, long long today, long long now_us, long long since_us, long long used)
    cpdef long affords(self, long long today, long long tokens) except -1
    cpdef extend(self, long long today, long long tokens)

@cython.locals(share=Share, ahead=cython.int)
cpdef Scope holder(Scope account, tuple shares, Py_ssize_t at)
@cython.locals(at=Py_ssize_t, scope=Scope)
cpdef tuple places(Scope account, tuple shares, Py_ssize_t count)
@cython.locals(share=Share)
cpdef hold_requests(tuple shares)
@cython.locals(share=Share)
cpdef give_requests(tuple shares, long long now_us)
@cython.locals(share=Share)
cpdef settle_requests(tuple shares, long long now_us, long long since_us, long long used)
cpdef Meter metered(Meter meter, long long rate, long long burst, long long now_us)
