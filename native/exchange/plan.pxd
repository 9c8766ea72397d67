cimport cython

from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group

cdef int CLOSED

@cython.final
cdef class Tries:
    cdef public tuple models, pools
    cdef public bint replayed
    cdef public int kills, passes, refusals, retries, turned
    cdef public double passed_at
    cdef public long long bound

    cpdef Tries tried(self, Pool pool)
    @cython.locals(made=Tries)
    cdef Tries _like(self, tuple pools, bint replayed, int retries, int kills)
    cpdef bint repeated(self) except -1
    cpdef bint patient(self, double now) except -1

@cython.final
cdef class Rules:
    cdef public int max_retries, quarantine_after
    cdef public bint replay, retry_fresh

@cython.locals(pool=Pool)
cpdef bint another(Group group, Tries tries) except -1
