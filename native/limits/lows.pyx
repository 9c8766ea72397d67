# cython: boundscheck=False, wraparound=False, cdivision=True
"""Compiled twin of fastgw/limits/lows.py: the same stack in an array of C numbers, which a request goes through twice."""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Realloc

MOST_LOWS = 64
NONE = -1

cdef enum:
    MOST = 128  # moments and debts, both counted
    FEW = 16  # what is kept for the next time


@cython.final
@cython.no_gc
cdef class Lows:
    """See the Python twin."""

    def __dealloc__(self):
        PyMem_Free(self._held)

    def __len__(self):
        return self._size // 2

    cpdef clear(self):
        """Nothing may come back any more."""
        self._size = 0
        if self._room > FEW:
            PyMem_Free(self._held)
            self._held = NULL
            self._room = 0

    cpdef mark(self, long long at_us, long long debt):
        """The debt is about to grow: so low it was until ``at_us``."""
        cdef Py_ssize_t size = self._size
        cdef Py_ssize_t room
        cdef long long *held
        while size and self._held[size - 1] >= debt:
            size -= 2
        if size + 2 > self._room:
            room = self._room * 2 if self._room else FEW
            held = <long long *>PyMem_Realloc(self._held, room * sizeof(long long))
            if held == NULL:
                raise MemoryError
            self._held = held
            self._room = room
        self._held[size] = at_us
        self._held[size + 1] = debt
        self._size = size + 2
        if size + 2 > MOST:
            self._thin()

    cpdef long long least(self, long long since_us) except? -1:
        """The least debt since ``since_us``, or ``NONE``."""
        cdef Py_ssize_t at = self._first(since_us)
        return self._held[at + 1] if at < self._size else -1

    cpdef lower(self, long long since_us, long long back):
        """``back`` less had been taken since ``since_us``, which is no more than the least debt since then."""
        cdef Py_ssize_t at = self._first(since_us)
        cdef Py_ssize_t begin, one
        cdef long long low
        if at == self._size:
            return
        for one in range(at + 1, self._size, 2):
            self._held[one] -= back
        low = self._held[at + 1]
        begin = at
        while begin and self._held[begin - 1] >= low:
            begin -= 2
        if begin == at:
            return
        for one in range(at, self._size):
            self._held[begin + one - at] = self._held[one]
        self._size -= at - begin

    cdef Py_ssize_t _first(self, long long since_us) noexcept:
        """Where the moments after ``since_us`` begin."""
        cdef Py_ssize_t at = self._size
        while at and self._held[at - 2] > since_us:
            at -= 2
        return at

    cdef void _thin(self) noexcept:
        """Half as many; see the Python twin."""
        cdef long long width = 1
        cdef long long last, low
        cdef Py_ssize_t at, kept
        cdef long long *held = self._held
        while self._size > MOST // 2:
            kept = 2
            last = held[1]
            for at in range(2, self._size, 2):
                low = held[at + 1]
                if (low - last) // width > last // 8:
                    held[kept] = held[at]
                    held[kept + 1] = low
                    kept += 2
                    last = low
                else:
                    held[kept - 2] = held[at]
            self._size = kept
            width *= 2
