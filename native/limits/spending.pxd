cimport cython

cdef long long _most, _most_open, _unknown
cdef str _others

@cython.locals(thousands=cython.longlong)
cdef long _part(long long tokens, long long price) except -1

@cython.final
cdef class Price:
    cdef public long long cached, input, output

    cpdef long cost(self, long long prompt, long long completion, long long cached) except -1
    @cython.locals(thousands=cython.longlong)
    cpdef long tokens(self, long long money) except -1

@cython.final
cdef class Use:
    cdef public long long cached, completion, cost, day, estimated, prompt, reasoning, requests, unpriced
    cdef public str key, model, tenant

    cpdef count(self, long long cost, long long prompt, long long completion, long long cached, long long reasoning,
                bint estimated)
    cpdef tuple row(self)

@cython.final
cdef class Books:
    cdef dict _open
    cdef public bint kept, refuses
    cdef public dict dearest, prices
    cdef public object may, opened

    @cython.locals(price=Price)
    cpdef long cost(self, str model, long long prompt, long long completion, long long cached) except? -1
    @cython.locals(price=Price)
    cpdef Price most(self, str model)
    @cython.locals(found=Use)
    cpdef Use use(self, str key, str tenant, str model, long long day)
    @cython.locals(rows=list, use=Use)
    cpdef list take(self, long long most)
