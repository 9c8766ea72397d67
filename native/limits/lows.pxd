# The compiled twin of fastgw/limits/lows.py: what compiled modules may take from it at C level.

cimport cython


@cython.final
cdef class Lows:
    cdef long long *_held
    cdef Py_ssize_t _size  # moments and debts, both counted
    cdef Py_ssize_t _room

    cdef long save(self, long long *words, Py_ssize_t at, Py_ssize_t most) except -1
    cdef int load(self, long long *words, Py_ssize_t at, Py_ssize_t count) except -1
    cpdef clear(self)
    cpdef mark(self, long long at_us, long long debt)
    cpdef long long least(self, long long since_us) except? -1
    cpdef lower(self, long long since_us, long long back)
    cdef Py_ssize_t _first(self, long long since_us) noexcept
    cdef int _grow(self, Py_ssize_t size) except -1
    cdef void _thin(self, Py_ssize_t most) noexcept
