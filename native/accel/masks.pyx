# cython: boundscheck=False, wraparound=False, cdivision=True, nonecheck=False
"""Compiled twin of fastgw/accel/masks.py: eight bytes at a time, in the one copy that there is."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy


cdef void _mask(const char *source, char *target, Py_ssize_t size, const char *key, int phase) noexcept nogil:
    cdef uint8_t[8] keys
    cdef uint64_t wide, piece
    cdef Py_ssize_t at = 0
    cdef int i
    for i in range(8):
        keys[i] = <uint8_t>key[(phase + i) & 3]
    memcpy(&wide, keys, 8)
    while at + 8 <= size:
        memcpy(&piece, source + at, 8)
        piece ^= wide
        memcpy(target + at, &piece, 8)
        at += 8
    while at < size:
        target[at] = <char>(<uint8_t>source[at] ^ keys[at & 7])
        at += 1


cdef int _inside(bytes data, Py_ssize_t start, Py_ssize_t stop, bytes key) except -1:
    if start < 0 or stop < start or stop > PyBytes_GET_SIZE(data):
        raise IndexError("outside of the bytes")
    cdef Py_ssize_t size = PyBytes_GET_SIZE(key)
    if size and size != 4:
        raise ValueError("a key has four bytes")
    return 0


cpdef bytes unmasked(bytes data, Py_ssize_t start, Py_ssize_t stop, bytes key, long long phase):
    _inside(data, start, stop, key)
    cdef Py_ssize_t size = stop - start
    if not size or not PyBytes_GET_SIZE(key):
        return data if size == PyBytes_GET_SIZE(data) else PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + start, size)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, size)
    _mask(PyBytes_AS_STRING(data) + start, PyBytes_AS_STRING(made), size, PyBytes_AS_STRING(key), <int>(phase & 3))
    return made


cpdef bytes framed(int first, bytes data, Py_ssize_t start, Py_ssize_t stop, bytes key):
    _inside(data, start, stop, key)
    cdef Py_ssize_t size = stop - start
    cdef Py_ssize_t keyed = PyBytes_GET_SIZE(key)
    cdef Py_ssize_t head = 2 + keyed + (0 if size < 126 else 2 if size < 65536 else 8)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, head + size)
    cdef char *out = PyBytes_AS_STRING(made)
    cdef int bit = 0x80 if keyed else 0
    cdef int i
    out[0] = <char>first
    if size < 126:
        out[1] = <char>(bit | size)
        i = 2
    elif size < 65536:
        out[1] = <char>(bit | 126)
        out[2] = <char>(size >> 8)
        out[3] = <char>(size & 255)
        i = 4
    else:
        out[1] = <char>(bit | 127)
        for i in range(8):
            out[2 + i] = <char>((<uint64_t>size >> (56 - 8 * i)) & 255)
        i = 10
    if keyed:
        memcpy(out + i, PyBytes_AS_STRING(key), 4)
        _mask(PyBytes_AS_STRING(data) + start, out + head, size, PyBytes_AS_STRING(key), 0)
    else:
        memcpy(out + head, PyBytes_AS_STRING(data) + start, size)
    return made
