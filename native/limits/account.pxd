cimport cython

from fastgw.limits.ledger cimport Ledger
from fastgw.limits.meter cimport Meter

@cython.final
cdef class Defaults:
    cdef public long long burst, concurrency, daily_tokens, requests_per_minute, tokens_per_minute
    cdef public bint cut

@cython.final
cdef class Account:
    cdef public bint cut, disabled, reserves
    cdef public double expires_at
    cdef public str flow, id
    cdef public int priority
    cdef public long long concurrency, inflight
    cdef public Ledger ledger
    cdef public Meter requests, tokens
    cdef public object models, networks, parked, record

    cpdef set(self, Defaults defaults, object record, long long now_us)
    cpdef bint allows(self, str ip) except -1

@cython.final
cdef class Accounts:
    cdef dict _by_digest, _by_id
    cdef double _due, _looked
    cdef Defaults _defaults
    cdef public Account anonymous
    cdef public bint required
    cdef public list touched

    cpdef Account find(self, bytes digest)
    cpdef bint expire(self, double unix_s) except -1
