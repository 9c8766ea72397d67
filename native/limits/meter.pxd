cimport cython

cdef long long _debt_periods, _most_debt

@cython.final
cdef class Meter:
    cdef public long long at_us, burst, debt, period_us, rate
    cdef public bint held

    cpdef bint take(self, long long now_us, long long cost) except -1
    @cython.locals(short=cython.longlong)
    cpdef long wait_us(self, long long now_us, long long cost) except? -2
    cpdef give(self, long long now_us, long long cost)
    @cython.locals(most=cython.longlong)
    cpdef charge(self, long long now_us, long long cost)
    @cython.locals(room=cython.longlong)
    cpdef long left(self, long long now_us) except -1
    cpdef long reset_us(self, long long now_us) except -1
    cpdef bint idle(self, long long now_us) except -1
    cpdef change(self, long long rate, long long burst, long long now_us)
    @cython.locals(elapsed=cython.longlong)
    cdef _pay(self, long long now_us)
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
