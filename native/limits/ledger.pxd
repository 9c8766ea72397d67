cimport cython

cdef long long _most

@cython.final
cdef class Ledger:
    cdef tuple _before
    cdef long long _changes, _version, _written
    cdef public bint dirty
    cdef public long long completion, day, estimated, limit, prompt, requests, reserved

    @cython.locals(came=tuple)
    cpdef roll(self, long long day)
    cpdef bint reserve(self, long long day, long long cost) except -1
    cpdef long extend(self, long long day, long long cost) except -1
    cpdef settle(self, long long day, long long reserved, long long prompt, long long completion, bint estimated)
    cpdef release(self, long long reserved)
    cpdef long left(self, long long day) except? -2
    cpdef restore(self, long long day, long long prompt, long long completion, long long requests, long long estimated)
    @cython.locals(before=tuple, found=list)
    cpdef list rows(self)
    @cython.locals(before=tuple)
    cpdef clean(self, long long day, long long version)
    @cython.locals(before=tuple)
    cdef _look(self)
