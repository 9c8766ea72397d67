cimport cython

from fastgw.limits.promises cimport Promises
from fastgw.limits.shared cimport Record
from fastgw.limits.spending cimport Price

cdef long long _most, _most_heard, _warn

@cython.final
cdef class Purse:
    cdef long long _before, _before_begins, _warns_at
    cdef dict _heard
    cdef public long long begins, ends, limit, reserved, spent, told
    cdef public bint common, known
    cdef public Record record
    cdef public bytes line
    cdef public str kind, name, period
    cdef public tuple models
    cdef public Promises promises

    cpdef change(self, long long limit, str period, bytes line)
    cpdef roll(self, long long day)
    @cython.locals(heard=dict)
    cdef long _told(self) except -1
    @cython.locals(heard=dict)
    cpdef tell(self, long long percent)
    cpdef long left(self, long long day) except -1
    cpdef bint over(self, long long day) except -1
    cpdef bint reserve(self, long long day, long long cost) except -1
    cpdef release(self, long long cost)
    cpdef bint charge(self, long long day, long long cost) except -1
    cpdef long percent(self) except -1
    cpdef restore(self, long long begins, long long spent, long long told=*)
    cdef save(self, long long *words, Py_ssize_t at)
    @cython.locals(turned=bint)
    cdef load(self, long long *words, Py_ssize_t at)

@cython.final
cdef class Hold:
    cdef public bint broke
    cdef public long long reserved, tokens
    cdef public Price price
    cdef public Purse own, shared

    cpdef make(self, Purse own, Purse shared, Price price, long long reserved, long long tokens)
    @cython.locals(left=cython.longlong, granted=cython.longlong, cost=cython.longlong)
    cpdef long extend(self, long long day, long long tokens) except -1
    cpdef release(self)

@cython.locals(left=cython.longlong)
cpdef long left_of(Purse own, Purse shared, long long day) except -1
