cimport cython

from fastgw.limits.promises cimport Promises

cdef long long _most
cdef int DAY_WORDS, MOST_OTHERS, WHOLE

@cython.final
cdef class Day:
    cdef public long long cached, completion, day, estimated, prompt, reasoning, requests, version, written
    cdef public bint whole

    cdef save(self, long long *words, Py_ssize_t at)
    cdef bint load(self, long long *words, Py_ssize_t at) except -1
    cpdef tuple row(self)

@cython.final
cdef class Ledger:
    cdef tuple _others
    cdef long long _changes, _version, _written
    cdef public bint dirty
    cdef bint _whole
    cdef public Promises promises
    cdef public long long cached, completion, day, estimated, limit, prompt, reasoning, requests, reserved

    @cython.locals(came=Day, other=Day, kept=list, gone=Day)
    cpdef roll(self, long long day)
    cpdef bint reserve(self, long long day, long long cost) except -1
    cpdef long extend(self, long long day, long long cost) except -1
    cpdef settle(self, long long day, long long reserved, long long prompt, long long completion, bint estimated,
                 long long cached=*, long long reasoning=*)
    cpdef release(self, long long reserved)
    cpdef long left(self, long long day) except? -2
    cpdef restore(self, long long day, long long prompt, long long completion, long long requests, long long estimated,
                  long long cached=*, long long reasoning=*)
    @cython.locals(other=Day)
    cpdef begin(self, long long day, long long prompt, long long completion, long long requests, long long estimated,
                long long cached=*, long long reasoning=*)
    @cython.locals(other=Day, found=list)
    cpdef list rows(self, tuple unknown=*)
    @cython.locals(other=Day)
    cpdef clean(self, long long day, long long version)
    @cython.locals(left=Day)
    cdef Day _left(self)
    cdef _become(self, Day came)
    @cython.locals(place=Py_ssize_t, other=Day)
    cdef save(self, long long *words, Py_ssize_t at)
    @cython.locals(place=Py_ssize_t)
    cdef load(self, long long *words, Py_ssize_t at)
    @cython.locals(found=list, known=list, day=Day, place=Py_ssize_t)
    cdef _order(self, long long *words, Py_ssize_t at)
    @cython.locals(other=Day)
    cdef _load_other(self, long long *words, Py_ssize_t at)
    @cython.locals(other=Day, dirty=bint)
    cdef _look(self)

@cython.locals(day=Day)
cdef Day _of(object days, long long number)
