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

    cdef long save(self, long long *words, Py_ssize_t at, Py_ssize_t most) except -1:
        """Write them there, ``most`` of them at most, for another process. Returns how many."""
        cdef Py_ssize_t one
        if self._size > 2 * most:
            self._thin(2 * most)
        for one in range(self._size):
            words[at + one] = self._held[one]
        return self._size // 2

    cdef int load(self, long long *words, Py_ssize_t at, Py_ssize_t count) except -1:
        """These are there now."""
        cdef Py_ssize_t one
        while self._room < 2 * count:
            self._grow(self._room)
        for one in range(2 * count):
            self._held[one] = words[at + one]
        self._size = 2 * count
        return 0

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
        while size and self._held[size - 1] >= debt:
            size -= 2
        if size + 2 > self._room:
            self._grow(self._room)
        self._held[size] = at_us
        self._held[size + 1] = debt
        self._size = size + 2
        if size + 2 > MOST:
            self._thin(MOST // 2)

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

    cdef int _grow(self, Py_ssize_t size) except -1:
        """Twice the room of now."""
        cdef Py_ssize_t room = size * 2 if size else FEW
        cdef long long *held = <long long *>PyMem_Realloc(self._held, room * sizeof(long long))
        if held == NULL:
            raise MemoryError
        self._held = held
        self._room = room
        return 0

    cdef void _thin(self, Py_ssize_t most) noexcept:
        """No more numbers than that; see the Python twin."""
        cdef long long width = 1
        cdef long long last, low
        cdef Py_ssize_t at, kept
        cdef long long *held = self._held
        while self._size > most:
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
