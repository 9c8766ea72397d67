# The compiled twin of fastgw/accel/usage.py: what compiled modules may take from it at C level.

cimport cython

cdef enum:
    COUNTS = 13
    PLACES = 6
    NAME_BYTES = 192
    WORDS_BYTES = 1024
    LEVELS = 8


# What an answer has used: tokens, -1 = not said. ``measured``: it is of llama.cpp's timings alone.
cdef struct Figures:
    long long prompt
    long long completion
    long long cached
    long long reasoning
    long long seconds  # of audio
    bint measured


cdef struct Level:
    int where
    int place
    int parts


cdef struct Words:
    int size
    int depth
    Py_ssize_t length
    bint text
    bint escaped
    bint over
    bint full  # there was more than is kept
    unsigned char kept[WORDS_BYTES]


cdef struct Scan:
    int phase
    int levels
    int member  # its row in the table, -1 = none
    int depth
    int names  # that were looked at
    bint error
    bint answers
    bint heard  # the first error's words are there, or its type's
    unsigned char closes  # the byte with which a value ends of whose next one it depends whether it is empty
    bint whole
    bint escaped  # the last byte was a backslash in a string
    unsigned char told[PLACES]
    Level stack[LEVELS]
    Py_ssize_t size  # of the unfinished name or number; more than there is room for = it is none that is read
    unsigned char token[NAME_BYTES]
    long long counts[COUNTS]
    long long places[PLACES][COUNTS]
    Words words


cdef void scan_begin(Scan *scan) noexcept nogil
cdef void scan_feed(Scan *scan, const unsigned char *p, Py_ssize_t n) noexcept nogil
cdef bytes scan_failure(const Scan *scan)
cdef void scan_figures(const Scan *scan, Figures *figures) noexcept nogil


@cython.final
cdef class UsageScanner:
    cdef Scan _scan
    cpdef feed(self, bytes data)
    cpdef tuple figures(self)
    cpdef bytes failure(self)


cpdef (long long, long long, long long, long long) usage_in(bytes body) except *
cpdef tuple event_usage(bytes data)
cpdef long long seconds_in(bytes body)
cpdef bint names_error(bytes body) except -1
