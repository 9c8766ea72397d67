cimport cython

from fastgw.net.clock cimport monotonic

cdef class Timed:
    cdef public double deadline
    cdef public long wheel_slot

    cpdef expired(self, double now)

@cython.final
cdef class TimerWheel:
    cdef dict _buckets
    cdef object _handle, _loop
    cdef long _next
    cdef list _order

    cpdef arm(self, Timed entry, double deadline)
    cpdef disarm(self, Timed entry)
    cdef _insert(self, Timed entry, long slot)
    cdef _sleep(self)
    cpdef _tick(self)
