cimport cython

from fastgw.limits.ledger cimport Ledger
from fastgw.limits.purse cimport Purse
from fastgw.limits.scope cimport Scope
from fastgw.limits.scopes cimport Scopes
from fastgw.limits.spending cimport Books, Use

@cython.final
cdef class Defaults:
    cdef public long long budget, burst, concurrency, daily_tokens, requests_per_minute, tokens_per_minute
    cdef public bint cut, scoped
    cdef public str budget_period

@cython.final
cdef class Account(Scope):
    cdef public bint cut, disabled, pays, reserves, scoped, stored
    cdef public double expires_at, previous_until
    cdef public str flow, tenant
    cdef public bytes digest, previous_digest
    cdef public int priority
    cdef public Ledger ledger
    cdef public Purse purse, shared
    cdef public Scope joint
    cdef public Use use
    cdef public object models, networks

    cpdef set(self, Defaults defaults, object record, long long now_us, Purse shared=*, Scope joint=*)
    cpdef double ends_after(self, double unix_s) except -1
    cpdef bint limited(self) except -1
    cpdef bint allows(self, str ip) except -1

@cython.final
cdef class Accounts:
    cdef dict _by_certificate, _by_digest, _by_id, _certificates, _retired, _tenants
    cdef list _ends
    cdef long long _ends_most
    cdef double _latest
    cdef bint _twice
    cdef Defaults _defaults
    cdef public Account anonymous
    cdef public bint required
    cdef public list crossed, touched, unread
    cdef public Books books
    cdef public Scopes scopes
    cdef public object region

    cpdef Account find(self, bytes digest)
    @cython.locals(account=Account)
    cpdef Account find_certificate(self, bytes fingerprint)
    cpdef bint expire(self, double unix_s) except -1
