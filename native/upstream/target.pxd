cimport cython

from fastgw.limits.breaker cimport Breaker
from fastgw.net.clock cimport monotonic

cdef int CLOSED, NO

@cython.final
cdef class Engine:
    cdef public tuple addresses, discovered_models, probe_paths, words
    cdef public long long answered_total, failures, failures_total, inflight, truncations_total
    cdef public bytes api_key_line, base, head_block, label
    cdef public bint cancel, literal
    cdef public object configured_models, healthy, port, weight
    cdef public str host, kind, name, served_name, unix_path
    cdef public Py_ssize_t max_connections, warm_connections
    cdef public double not_before, probed_at
    cdef public Breaker breaker
    cdef public long long max_concurrent, slots
    cdef public object gradient

    cpdef bint usable(self) except -1
    cpdef bint permitted(self) except -1
    cpdef bint last_resort(self) except -1
    cpdef told_to_wait(self, str caller, double now, double seconds)
    cpdef bint full(self) except -1
