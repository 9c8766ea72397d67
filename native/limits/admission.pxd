cimport cython

from fastgw.limits.account cimport Account
from fastgw.limits.ledger cimport Ledger
from fastgw.limits.meter cimport Meter
from fastgw.limits.promises cimport Promises
from fastgw.limits.purse cimport Purse
from fastgw.limits.scope cimport Scope, Share

@cython.final
cdef class Refusal:
    cdef public Scope scope
    cdef public str reason
    cdef public double wait_s

@cython.locals(requests=Meter, tokens=Meter, ledger=Ledger, dated=bint, well=bint)
cpdef bint admit(Account account, long long day, long long now_us, long long minute, long long daily,
                 long long money=*, tuple shares=*) except -1
@cython.locals(share=Share, at=Py_ssize_t)
cdef bint _take(tuple shares, long long day, long long now_us, long long cost) except -1
@cython.locals(share=Share)
cdef _give(tuple shares, long long now_us)
@cython.locals(own=Purse, shared=Purse)
cdef bint _pay(Account account, long long day, long long money, long long now_us, tuple shares) except -1
@cython.locals(requests=Meter, tokens=Meter, ledger=Ledger, promises=Promises, found=Refusal, lacking=Purse)
cpdef Refusal refusal(Account account, long long day, long long now_us, double to_midnight_s, long long minute,
                      long long daily, double chance, long long money=*, tuple shares=*)
@cython.locals(found=Refusal, share=Share, scope=Scope, tokens=Meter, requests=Meter, left=Purse, minute=cython.longlong)
cdef Refusal _of_shares(tuple shares, long long day, long long now_us, double to_midnight_s, long long cost, double chance)
cdef double _told(Purse purse, long long now_us, double chance) except -1
@cython.locals(own=Purse, shared=Purse)
cpdef Purse lacking_of(Account account, long long day, long long money)
@cython.locals(found=Purse, shared=Purse)
cpdef Purse broke(Account account, long long day)
cpdef double to_end_s(Purse purse, long long day, double to_midnight_s) except -1
@cython.locals(ledger=Ledger)
cpdef bint spent(Account account, long long day) except -1
@cython.locals(wait_us=cython.longlong)
cpdef double wait_whatever_it_costs_s(Account account, long long now_us) except -1
cdef Refusal _longer(Refusal found, str reason, double wait_s, Scope scope=*)
