from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group
from fastgw.upstream.target cimport Engine
from fastgw.upstream.watch cimport Journal


cdef class Loads:
    cdef public tuple pools
    cdef public long long rooms, total
    cdef double *_keys
    cdef long long *_loads
    cdef long long *_rooms
    cdef int *_places
    cdef Py_ssize_t _numbers, _half, _count
    cdef Journal _journal
    cdef long long _seen
    cdef double _fresh_at
    cdef int _unit
    cdef bint _by_slots

    cpdef Py_ssize_t least(self, Py_ssize_t start) except -2
    cpdef Py_ssize_t least_but(self, Py_ssize_t start, tuple tried) except -2
    cpdef Py_ssize_t place(self, Pool pool) except -2
    cpdef long long load(self, Py_ssize_t at) except? -1
    cpdef long long room(self, Py_ssize_t at) except? -1
    cpdef double key(self, Py_ssize_t at) except? -1.0
    cpdef long long bound(self, Py_ssize_t at, long long percent, long long above=*) except? -1
    cpdef sync(self)
    cdef Py_ssize_t _find(self, Py_ssize_t start, double most) noexcept
    cdef _refresh(self)
    cdef bint _placed(self) except -1
    cdef double _figure(self, Py_ssize_t at, Engine engine) except -1.0
    cdef int _weigh(self, Py_ssize_t at) except -1


cpdef Loads loads_of(Group group, int unit)
