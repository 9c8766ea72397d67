# The compiled twin of fastgw/accel/bodies.py: what compiled modules may take from it at C level.

cimport cython


@cython.final
cdef class BodyFacts:
    cdef public str model
    cdef public bint stream
    cdef public bint include_usage
    cdef public bint has_stream_options
    cdef public long long token_limit
    cdef public long long choices
    cdef public long long answers
    cdef public int named
    cdef public bint overrides
    cdef public long long prompt_tokens
    cdef public long long prompts
    cdef public int uncounted
    # Where its prompt stands, 0 = that is not known.
    cdef Py_ssize_t prompt_start
    cdef Py_ssize_t prompt_end


# The facts, or an outline for the complete path.
cpdef read(bytes body, int max_depth, Py_ssize_t max_members, int bytes_per_token=*)
cpdef outline(bytes body, int max_depth, Py_ssize_t max_members, int bytes_per_token=*)
cpdef tuple span_of(bytes text, str name, BodyFacts facts=*)
cpdef tuple prompt_span(bytes body, BodyFacts facts)
cpdef Py_ssize_t place_in(bytes body) except? -1
cpdef bytes with_member(bytes body, bytes member)
