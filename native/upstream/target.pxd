cimport cython

from fastgw.accel.histograms cimport Histogram
from fastgw.limits.breaker cimport Breaker
from fastgw.net.clock cimport monotonic
from fastgw.upstream.kinds.kind cimport Kind
from fastgw.upstream.watch cimport Watch

cdef int CLOSED, NO, OPEN

@cython.final
cdef class Engine:
    cdef public dict aliases
    cdef public tuple addresses, beside, discovered_models, gpus, ejected_by, probe_paths, words
    cdef public long long answered_total, ejections_total, failures, failures_total, inflight, light, truncations_total
    cdef public bytes api_key_line, base, head_block, label
    cdef public bint strict, takes_any
    cdef public bint away, cancel, crowded, disowned, draining, fleeting, h2, held, literal, tunnelled
    cdef public dict facts
    cdef public frozenset features
    cdef public Histogram first_tokens, gaps
    cdef public Watch watch
    cdef public object configured_cancel, configured_max_idle, configured_models, healthy, port
    cdef public Kind kind
    cdef public str host, machine, name, protocol, served_name, tenant, unix_path, version
    cdef public Py_ssize_t idle_files, max_connections, max_idle, warm_connections
    cdef public double ejected_until, probed_at, rests_until, served_at
    cdef public Breaker breaker
    cdef public long long max_concurrent, queued, ramp, slots, weight
    cdef public object gauges, gradient, secure, secure_h2

    cpdef become(self, Kind kind)
    cpdef bint judges(self) except -1
    cpdef bint doubted(self) except -1
    cpdef bint hears(self, str caller, str model) except -1
    cpdef bint usable(self) except -1
    @cython.locals(count=Py_ssize_t, other=Engine)
    cpdef Py_ssize_t under_way(self) except -1
    cpdef joins(self, Engine other)
    @cython.locals(other=Engine)
    cpdef parts(self)
    cpdef bint permitted(self) except -1
    cpdef bint last_resort(self) except -1
    cpdef bint let_go(self) except -1
    cpdef bint rests(self) except -1
    cpdef told_to_wait(self, str caller, double now, double seconds)
    @cython.locals(words=tuple)
    cpdef bint told(self, str caller, double now) except -1
    cpdef bint full(self) except -1
