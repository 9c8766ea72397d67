cdef int MOST_BOUNDS

cdef class Bounds:
    cdef public tuple values
    cdef double _values[24]
    cdef int _size

cdef class Histogram:
    cdef public Bounds bounds
    cdef public double total
    cdef public dict exemplars
    cdef long long _counts[25]

    cpdef int observe(self, double value) except -1
    cpdef came(self, double value, long long events, Histogram also)
    cpdef exemplify(self, int at, double value, double when, str trace)
