cimport cython

from fastgw.limits.lows cimport Lows
from fastgw.limits.promises cimport Promises
from fastgw.limits.shared cimport Record

cdef long long _debt_periods, _most_debt
cdef int _none
cdef Py_ssize_t _shared_lows

@cython.final
cdef class Past:
    cdef public long long beyond, lowered_us, open
    cdef public Lows lows
    cdef public Promises promises

    cpdef forget(self)

@cython.final
cdef class Meter:
    cdef public long long at_us, burst, debt, period_us, rate, since_us
    cdef public bint held
    cdef public Past past
    cdef public Record record

    @cython.locals(past=Past)
    cpdef bint take(self, long long now_us, long long cost) except -1
    @cython.locals(short=cython.longlong)
    cpdef long wait_us(self, long long now_us, long long cost) except? -2
    @cython.locals(past=Past)
    cpdef hold(self)
    @cython.locals(past=Past, holds=cython.bint)
    cpdef settle(self, long long now_us, long long since_us, long long taken, long long used)
    @cython.locals(word_us=cython.longlong, past=Past, promises=Promises, narrow=cython.bint, each_s=cython.double)
    cpdef double told_s(self, long long now_us, long long cost, double chance) except? -2
    cpdef give(self, long long now_us, long long cost)
    @cython.locals(most=cython.longlong, past=Past)
    cpdef charge(self, long long now_us, long long cost)
    @cython.locals(room=cython.longlong)
    cpdef long left(self, long long now_us) except -1
    cpdef long reset_us(self, long long now_us) except -1
    cpdef bint idle(self, long long now_us) except -1
    cpdef change(self, long long rate, long long burst, long long now_us)
    @cython.locals(past=Past, most=cython.longlong)
    cdef _part(self)
    @cython.locals(past=Past, lows=Lows)
    cdef save(self, long long *words, Py_ssize_t at)
    @cython.locals(past=Past, count=Py_ssize_t)
    cdef load(self, long long *words, Py_ssize_t at, long long open_)
    @cython.locals(past=Past, elapsed=cython.longlong)
    cdef _pay(self, long long now_us)
    @cython.locals(paid=cython.longlong)
    cdef _pay_all(self, Past past, long long elapsed)
    @cython.locals(lows=Lows)
    cdef _mark(self, Past past)
    @cython.locals(lows=Lows, back=cython.longlong, aside=cython.longlong, low=cython.longlong)
    cdef _return(self, Past past, long long now_us, long long since_us, long long cost)
    @cython.locals(beyond=cython.longlong)
    cdef long _most(self) except -1

@cython.final
cdef class Meters:
    cdef dict _held
    cdef object _order
    cdef Meter _shared
    cdef public long long burst, max_entries, period_us, rate, shared_total

    @cython.locals(meter=Meter)
    cpdef Meter get(self, str name, long long now_us)
    @cython.locals(meter=Meter, name=str, gone=cython.longlong)
    cpdef long sweep(self, long long now_us, long long most) except -1
