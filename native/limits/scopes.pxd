cimport cython

from fastgw.limits.scope cimport Scope

cdef int LOOKED_AT

@cython.final
cdef class Model:
    cdef public bint each
    cdef public object terms
    cdef public Scope crowd, together

@cython.final
cdef class Scopes:
    cdef list _unread
    cdef long long _most
    cdef object _order
    cdef readonly dict _each, _tenants
    cdef public dict models
    cdef public object region

    cpdef Scope tenant(self, str name)
    @cython.locals(found=Model)
    cpdef tuple of(self, str key, Scope joint, str model, long long now_us, long long today)
    @cython.locals(known=tuple, name=tuple)
    cpdef Scope of_key(self, str key, Model model, long long now_us, long long today)
    cpdef list everyone(self)
    cdef _join(self, Scope scope, str model)
    cdef _limit(self, Scope scope, object limits, tuple day_of, tuple models, long long now_us)
    @cython.locals(name=tuple)
    cdef _sweep(self, long long now_us, long long today)
