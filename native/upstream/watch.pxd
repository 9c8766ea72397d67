cimport cython

cdef long long _MASK, _MOST_TOKENS

@cython.final
cdef class Journal:
    cdef public list changes
    cdef public long long count
    cdef public double decay_s
    cdef list _free
    cdef Py_ssize_t _next

    cpdef note(self, Watch watch)

@cython.final
cdef class Watch:
    cdef public Journal journal
    cdef public Py_ssize_t number
    cdef public bint gone
    cdef public long long answers, faults, in_time, known, late, making, reading, row, samples, since
    cdef public double late_s, ttft_at, ttft_s
    cdef public tuple faults_by, late_by, row_by

    cpdef Py_ssize_t opened(self, long long tokens) except -1
    cpdef began(self, long long read, long long makes)
    cpdef ended(self, long long read, long long made)
    cpdef answered(self)
    cpdef failed(self, tuple whose=*)
    @cython.locals(weight=cython.double)
    cpdef took(self, double seconds, double now)
    cpdef was_late(self, tuple whose)
    cpdef begins_anew(self)
    cpdef double latency_s(self, double now) except -1.0
    @cython.locals(decay_s=cython.double)
    cpdef double weight(self, double now) except -1.0
