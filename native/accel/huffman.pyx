# cython: boundscheck=False, wraparound=False, cdivision=True, nonecheck=False
"""Compiled twin of fastgw/accel/huffman.py: the next ten bits say most symbols; of longer codes the length is looked for."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

cdef enum:
    _SHORT = 10  # bits of a code that the table knows
    _LONGEST = 30
    _END = 256
    _ON_STACK = 1024  # bytes of a result

# Of each byte's code, in bits; behind them that of the end, which is never written (§5.2).
cdef unsigned char[257] _LENGTHS = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
]
cdef uint16_t[1024] _short  # by the next bits: the code's length in the upper bits, and its symbol; 0 = it is longer
cdef uint32_t[31] _limit  # by a length: the number behind its last code,
cdef int[31] _first  # and what makes of a code its place among the sorted
cdef uint16_t[257] _sorted


cdef void _make() noexcept:
    cdef int length, symbol, place = 0
    cdef uint32_t code = 0, at
    for length in range(1, _LONGEST + 1):
        code <<= 1
        _first[length] = place - <int>code
        for symbol in range(257):
            if _LENGTHS[symbol] == length:
                if length <= _SHORT:
                    for at in range(code << (_SHORT - length), (code + 1) << (_SHORT - length)):
                        _short[at] = <uint16_t>(length << 8 | symbol)
                _sorted[place] = <uint16_t>symbol
                place += 1
                code += 1
        _limit[length] = code


_make()


cdef Py_ssize_t _unpack(const unsigned char *p, Py_ssize_t left, unsigned char *out) noexcept nogil:
    """How many bytes it made; -1 = it is not in the code."""
    cdef uint64_t bits = 0  # what was taken, the next in the highest
    cdef int count = 0, length  # how many of them are left
    cdef uint32_t code
    cdef uint16_t found
    cdef Py_ssize_t made = 0
    while True:
        while count <= 56 and left:
            bits |= <uint64_t>p[0] << (56 - count)
            p += 1
            left -= 1
            count += 8
        found = _short[bits >> (64 - _SHORT)]
        length = found >> 8
        if not length:
            code = <uint32_t>(bits >> (64 - _LONGEST))
            length = _SHORT + 1
            while length < _LONGEST and code >> (_LONGEST - length) >= _limit[length]:
                length += 1
            code = code >> (_LONGEST - length)
            if length == _LONGEST and code >= _limit[length]:
                return -1
            found = _sorted[<int>code + _first[length]]
        if length > count:
            break
        if length == _LONGEST and found == _END:
            return -1
        out[made] = <unsigned char>(found & 0xFF)
        made += 1
        bits <<= length
        count -= length
    # (What is missing of the last code are zeroes here: it is right where there is a beginning of the end's.)
    if count > 7 or (count and <int>(bits >> (64 - count)) != (1 << count) - 1):
        return -1
    return made


cpdef bytes unpacked(bytes value):
    """What the string ``value`` says; see the Python twin."""
    cdef unsigned char some[_ON_STACK]
    cdef unsigned char *out = some
    cdef Py_ssize_t size, made
    cdef bytes result
    if value is None:
        raise TypeError("bytes are needed, not None")
    size = PyBytes_GET_SIZE(value)
    if size * 8 // 5 > _ON_STACK:
        out = <unsigned char *>malloc(size * 8 // 5)
        if out is NULL:
            raise MemoryError()
    made = _unpack(<const unsigned char *>PyBytes_AS_STRING(value), size, out)
    if made >= 0:
        result = PyBytes_FromStringAndSize(<char *>out, made)
    if out is not some:
        free(out)
    if made < 0:
        raise ValueError("a string is not in Huffman's code")
    return result
