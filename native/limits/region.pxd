cimport cython

from fastgw.limits.account cimport Account
from fastgw.limits.addresses cimport Addresses
from fastgw.limits.ledger cimport Ledger
from fastgw.limits.meter cimport Meter
from fastgw.limits.purse cimport Purse
from fastgw.limits.scope cimport Scope, Share
from fastgw.limits.shared cimport Pages, Record
from fastgw.limits.table cimport Table

cdef Py_ssize_t _copy, _head, _index, _meter, _record, _slot, _tail, _window
cdef int _LEDGER, _PURSE

@cython.final
cdef class Region(Table):
    cdef list _purses, _scopes
    cdef Py_ssize_t _depth
    cdef public object trial

    cpdef Record record(self, str kind, str name, str model=*)
    cpdef Record address(self, str name)
    cpdef bint take(self, Meter meter, long long now_us) except -1
    cpdef join(self, Scope scope, str model=*)
    cpdef join_money(self, Purse purse)
    @cython.locals(share=Share, joint=Scope, purse=Purse)
    cpdef enter(self, Account account, tuple shares)
    @cython.locals(scope=Scope)
    cpdef bring(self, tuple scopes)
    cpdef begin(self)
    @cython.locals(scopes=list, purses=list, scope=Scope, purse=Purse)
    cpdef leave(self)
    @cython.locals(record=Record, words=cython.p_longlong, at=Py_ssize_t, day=Purse)
    cdef _bring(self, Scope scope)
    @cython.locals(meter=Meter, account=Account)
    cdef _load(self, Scope scope, Record record, Py_ssize_t at)
    @cython.locals(record=Record, words=cython.p_longlong, at=Py_ssize_t, other=Py_ssize_t, before=Py_ssize_t, to=Py_ssize_t,
                   account=Account)
    cdef _save(self, Scope scope)
    @cython.locals(words=cython.p_longlong, meter=Meter, day=Purse)
    cdef _meet(self, Scope scope, Record record, Py_ssize_t at)
    @cython.locals(words=cython.p_longlong, at=Py_ssize_t)
    cdef _commit(self, Record record, Py_ssize_t other)
    @cython.locals(words=cython.p_longlong, mine=Py_ssize_t, more=cython.longlong, meter=Meter, reserved=cython.longlong,
                   account=Account)
    cdef _tell(self, Scope scope, Record record)
    @cython.locals(record=Record, words=cython.p_longlong, at=Py_ssize_t)
    cdef _bring_money(self, Purse purse)
    @cython.locals(record=Record, words=cython.p_longlong, at=Py_ssize_t, other=Py_ssize_t)
    cdef _save_money(self, Purse purse)
    @cython.locals(words=cython.p_longlong, place=Py_ssize_t, at=Py_ssize_t, slot=Py_ssize_t, freed=cython.longlong, some=bint,
                   what=Py_ssize_t)
    cpdef long _release(self, long worker, Py_ssize_t first, Py_ssize_t end) except -1

@cython.final
cdef class Inside:
    cdef Region _region
    cdef tuple _things

@cython.locals(words=cython.p_longlong, at=Py_ssize_t)
cdef _set(Pages pages, tuple numbers, bytes key)
