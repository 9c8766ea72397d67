cimport cython

@cython.final
cdef class Kind:
    cdef public str default_tag, name, owned_by, owner
    cdef public bytes models_path, rank_header, show_path
    cdef public tuple asked, more, probe_paths
    cdef public object gauges
    cdef public Py_ssize_t max_idle
    cdef public bint asks_usage, cancel, counts_one_answer, h2c, knows_completion_tokens, loads_adapters, refuses_max_tokens
