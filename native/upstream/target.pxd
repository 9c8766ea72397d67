cimport cython

@cython.final
cdef class Engine:
    cdef public tuple addresses, discovered_models, probe_paths
    cdef public long long answered_total, failures, failures_total, inflight, truncations_total
    cdef public bytes api_key_line, base, head_block, label
    cdef public bint cancel, literal
    cdef public object configured_models, healthy, port, weight
    cdef public str host, kind, name, served_name, unix_path
    cdef public Py_ssize_t max_connections, warm_connections
    cdef public double probed_at
