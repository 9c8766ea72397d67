# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""The compiled twin of fastgw/accel/spans.py: one pass over an object, and no object made for what is passed over."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastgw.accel.json cimport STACK_WORDS, Bytes, after_colon, after_space, after_value, string_end, unescape

from fastgw.accel import members

cdef object _TooMany = members.TooMany
cdef object _folded = members.folded
cdef object _BOUNDS = members.BOUNDS


def bounds_in(bytes text, Py_ssize_t most) -> list:
    """(name, start, end) of the values in the object ``text`` (that was found good) that say how much is to be made, in order."""
    cdef Bytes p = <Bytes>PyBytes_AS_STRING(text)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(text)
    cdef Py_ssize_t i = after_space(p, 0, n)
    cdef Py_ssize_t start, end, size, value
    cdef Py_ssize_t count = 0
    cdef unsigned char made[6 * 64]
    cdef int kinds
    cdef list found = []
    i = after_space(p, i + 1, n)
    while p[i] == 34:
        kinds = 0
        start = i + 1
        end = string_end(p, start, n, &kinds, True)
        count += 1
        if count > most:
            raise _TooMany
        value = after_colon(p, end + 1, n) if end >= 0 else -1
        i = after_value(p, value, n, 64 * STACK_WORDS, True, NULL, NULL, NULL) if value >= 0 else -1
        if i < 0:
            break
        size = end - start
        if size <= 6 * 21:
            name = _folded(PyBytes_FromStringAndSize(<char*>made, unescape(p, start, end, made)).decode())
            if name in _BOUNDS:
                found.append((name, value, i))
        i = after_space(p, i, n)
        if p[i] == 44:
            i = after_space(p, i + 1, n)
    return found


def spans_of(bytes text, tuple names) -> dict:
    """Where the values of those of ``names`` stand that the object ``text`` has; see the source."""
    cdef dict wanted = {one.encode(): one for one in names}
    cdef dict found = {}
    cdef Bytes p = <Bytes>PyBytes_AS_STRING(text)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(text)
    cdef Py_ssize_t i = after_space(p, 0, n)
    cdef Py_ssize_t start, end, value
    cdef unsigned char made[6 * 32]
    cdef int kinds
    i = after_space(p, i + 1, n)
    while p[i] == 34:
        kinds = 0
        start = i + 1
        end = string_end(p, start, n, &kinds, True)
        value = after_colon(p, end + 1, n) if end >= 0 else -1
        i = after_value(p, value, n, 64 * STACK_WORDS, True, NULL, NULL, NULL) if value >= 0 else -1
        if i < 0:
            break
        if end - start <= 6 * 32:
            name = wanted.get(PyBytes_FromStringAndSize(<char*>made, unescape(p, start, end, made)))
            if name is not None:
                found[name] = value, i
        i = after_space(p, i, n)
        if p[i] == 44:
            i = after_space(p, i + 1, n)
    return found
