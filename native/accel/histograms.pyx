# cython: boundscheck=False, wraparound=False, cdivision=True, nonecheck=False
"""Compiled twin of fastgw/accel/histograms.py: a bucket is found by a few comparisons, and is a C number."""

MOST_BOUNDS = 24
Exemplar = tuple[float, float, str]


cdef class Bounds:
    def __init__(self, tuple values):
        cdef int at
        if not 0 < len(values) <= MOST_BOUNDS or list(values) != sorted(set(values)):
            raise ValueError(f"bounds are 1 to {MOST_BOUNDS} that rise")
        self.values = values
        self._size = <int>len(values)
        for at in range(self._size):
            self._values[at] = values[at]


cdef class Histogram:
    def __init__(self, Bounds bounds not None):
        self.bounds = bounds
        self.total = 0.0
        self.exemplars = None
        # (An object is made of zeros.)

    cpdef int observe(self, double value) except -1:
        cdef Bounds bounds = self.bounds
        cdef int low = 0
        cdef int high = bounds._size
        cdef int middle
        if value < 0.0:
            value = 0.0
        while low < high:
            middle = (low + high) >> 1
            if bounds._values[middle] < value:
                low = middle + 1
            else:
                high = middle
        self._counts[low] += 1
        self.total += value
        return low

    cpdef came(self, double value, long long events, Histogram also):
        cdef int at = self.observe(value)
        if events > 1:
            self._counts[0] += events - 1
        if also is not None:
            also._counts[at] += 1
            if value > 0.0:
                also.total += value
            if events > 1:
                also._counts[0] += events - 1

    cpdef exemplify(self, int at, double value, double when, str trace):
        if self.exemplars is None:
            self.exemplars = {}
        self.exemplars[at] = (value, when, trace)

    def add(self, Histogram other not None):
        cdef int at
        for at in range(self.bounds._size + 1):
            self._counts[at] += other._counts[at]
        self.total += other.total

    def put(self, counts, double total):
        cdef int at
        if len(counts) != self.bounds._size + 1:
            raise ValueError("not as many buckets")
        for at in range(self.bounds._size + 1):
            self._counts[at] += counts[at]
        self.total += total

    def counts(self):
        cdef int at
        return [self._counts[at] for at in range(self.bounds._size + 1)]
