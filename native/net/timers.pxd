cimport cython

from fastgw.net.clock cimport monotonic

cdef double CATCH_UP_S, MOMENT_S, TURN_S, _tick_s

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

    @cython.locals(slot=cython.long, held=cython.long)
    cpdef arm(self, Timed entry, double deadline)
    cpdef disarm(self, Timed entry)
    @cython.locals(bucket=set)
    cdef _insert(self, Timed entry, long slot)
    cdef _put_back(self, set bucket, long slot)
    cdef _sleep(self)
    @cython.locals(off=cython.double)
    cpdef _tick(self)
    @cython.locals(now=cython.double, current=cython.long, count=cython.long, lot=cython.long, slot=cython.long)
    cpdef _judge(self)
