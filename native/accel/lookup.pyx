# cython: boundscheck=False, wraparound=False
"""The compiled twin of fastgw/accel/lookup.py: one pass over the lines, without a copy of them."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr


cdef inline bint _same(const unsigned char *p, const unsigned char *name, Py_ssize_t size) noexcept:
    cdef Py_ssize_t i
    cdef unsigned char c
    for i in range(size):
        c = p[i]
        if 65 <= c <= 90:
            c |= 32
        if c != name[i]:
            return False
    return True


cpdef bytes first_in(bytes block, tuple names):
    """The value of the first of ``names`` (in lower case; their order is what counts, not that of the fields) that is a field of
    ``block``, lines that each end with CRLF, without the blanks around it; None = none is there, or it is empty."""
    cdef const unsigned char *p
    cdef const unsigned char *end
    cdef const unsigned char *stop
    cdef const unsigned char *found = NULL
    cdef const unsigned char *found_end = NULL
    cdef const unsigned char *value
    cdef bytes name
    cdef Py_ssize_t count, at, size
    cdef Py_ssize_t best
    if block is None or names is None:
        raise TypeError("a block is bytes, and names are a tuple")
    best = count = len(names)
    p = <const unsigned char *>PyBytes_AS_STRING(block)
    end = p + PyBytes_GET_SIZE(block)
    while p < end:
        stop = <const unsigned char *>memchr(p, 10, end - p)
        if stop == NULL:
            stop = end
        for at in range(best):
            name = <bytes?>names[at]
            size = PyBytes_GET_SIZE(name)
            if stop - p > size and p[size] == 58 and _same(p, <const unsigned char *>PyBytes_AS_STRING(name), size):
                value = p + size + 1
                found_end = stop
                while found_end > value and ((found_end - 1)[0] == 13 or (found_end - 1)[0] == 32 or (found_end - 1)[0] == 9):
                    found_end -= 1
                while value < found_end and (value[0] == 32 or value[0] == 9):
                    value += 1
                if value < found_end:
                    found = value
                    best = at
                    count = found_end - value
                break
        p = stop + 1
    return None if found == NULL else PyBytes_FromStringAndSize(<const char *>found, count)
