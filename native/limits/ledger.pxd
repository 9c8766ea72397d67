cimport cython

from fastgw.limits.promises cimport Promises

cdef long long _most
cdef int MOST_OTHERS

@cython.final
cdef class Day:
    cdef public long long cached, completion, day, estimated, prompt, reasoning, requests, version, written
    cdef public bint whole

    cpdef tuple row(self)

@cython.final
cdef class Ledger:
    cdef tuple _others
    cdef long long _changes, _version, _written
    cdef public bint dirty
    cdef bint _whole
    cdef public Promises promises
    cdef public long long cached, completion, day, estimated, limit, prompt, reasoning, requests, reserved

    @cython.locals(came=Day, left=Day, other=Day, kept=list, gone=Day)
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
    @cython.locals(other=Day, dirty=bint)
    cdef _look(self)
