cimport cython

from fastgw.accel.chunks cimport ChunkScanner


# What a run of plain events came to.
cdef struct Run:
    Py_ssize_t events
    Py_ssize_t tokens
    Py_ssize_t stranger  # where the last one with a text begins whose surroundings are not known; -1 = none
    Py_ssize_t stranger_bytes


@cython.final
cdef class SseScanner:
    cdef public Py_ssize_t events
    cdef public Py_ssize_t tokens
    cdef public bint done
    cdef public bint error
    cdef public bint first_token_seen
    cdef public bint mid_event
    cdef public long long prompt_tokens
    cdef public long long completion_tokens
    cdef public object finish_reason

    cdef bint _strip
    cdef bint _overlong
    cdef bint _drop_lf
    cdef bint _first
    cdef int _lessons
    cdef Py_ssize_t _noted
    # The unfinished event: `_size` bytes of a buffer that there is only while it is needed.
    cdef unsigned char *_buffer
    cdef Py_ssize_t _capacity
    cdef Py_ssize_t _size
    cdef Py_ssize_t _sent
    cdef Py_ssize_t _scanned
    # What surrounds the text of a plain event; pointers into `_lesson`.
    cdef bytes _lesson
    cdef const unsigned char *_prefix
    cdef const unsigned char *_suffix
    cdef Py_ssize_t _prefix_bytes
    cdef Py_ssize_t _suffix_bytes

    cpdef bytes feed(self, bytes payload)
    cpdef bytes flush(self)

    cdef Py_ssize_t _plain(self, const unsigned char *p, Py_ssize_t n, Run *run) noexcept nogil
    cdef void _count(self, const Run *run) noexcept nogil
    cdef int _count_and_learn(self, const unsigned char *p, const Run *run) except -1
    cdef int _learn(self, bytes event, bint is_json) except -1
    cdef bytes _feed(self, bytes payload)
    cdef bint _event(self, const unsigned char *p, Py_ssize_t n) except -1
    cdef bint _data(self, bytes data) except -1
    cdef int _timed(self, bytes raw) except -1
    cdef int _nested(self, bytes raw) except -1
    cdef bint _usage(self, bytes raw) except -1
    cdef int _keep_tail(self, const unsigned char *p, Py_ssize_t n) except -1
    cdef int _append(self, const unsigned char *p, Py_ssize_t n) except -1


cpdef bint passes(ChunkScanner chunks, SseScanner sse, bytes data) except -1
cdef bint passes_at(ChunkScanner chunks, SseScanner sse, const char *data, Py_ssize_t n) noexcept
