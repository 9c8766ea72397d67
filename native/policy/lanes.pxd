cimport cython

from fastgw.exchange.exchange cimport Exchange
from fastgw.limits.fairqueue cimport FairQueue
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group
from fastgw.upstream.target cimport Engine

@cython.final
cdef class Terms:
    cdef public long long inflight, limit
    cdef public bint rejects
    cdef public tuple fallback
    cdef public double timeout_s

@cython.final
cdef class Lane:
    cdef public Group group
    cdef public Terms terms
    cdef public long long served_at
    cdef public FairQueue queue
    cdef public dict beside
    cdef public Lane home
    cdef public tuple left

    @cython.locals(found=Lane)
    cpdef Lane line(self, tuple left, long long turn)
    @cython.locals(home=Lane)
    cpdef emptied(self)
    @cython.locals(pool=Pool, engine=Engine, terms=Terms, full=cython.bint)
    cpdef bint room(self, tuple pools, tuple tried) except -1

@cython.locals(pool=Pool, engine=Engine)
cpdef bint fit(Group group) except -1
cpdef bint makes_room(Exchange exchange) except -1
