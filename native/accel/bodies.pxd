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
    cdef public Py_ssize_t prompt_bytes


# None = ask the complete path.
cpdef BodyFacts read(bytes body, int max_depth)

cpdef tuple usage_in(bytes body)

# The same without a tuple; False = neither is said.
cdef bint usage_at(bytes body, long long* prompt, long long* completion) noexcept
