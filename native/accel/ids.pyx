# cython: boundscheck=False, wraparound=False, nonecheck=False
"""Compiled twin of fastgw/accel/ids.py: one look at each byte."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

cdef unsigned char[256] _fit
for _one in range(256):
    _fit[_one] = _one in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:~+/=@-"


cpdef bint valid_request_id(bytes value) except -1:
    """Whether a client's ``x-request-id`` may be taken over; see the Python twin."""
    cdef const unsigned char *p
    cdef Py_ssize_t size, at, low = 0
    if value is None:
        raise TypeError("bytes are needed, not None")
    p = <const unsigned char *>PyBytes_AS_STRING(value)
    size = PyBytes_GET_SIZE(value)
    if not 0 < size <= 128:
        return False
    for at in range(size):
        if not _fit[p[at]]:
            return False
        low += p[at] == 95
    return low < 5 or (value.find(b"___prefill_addr_") < 0 and value.find(b"___decode_addr_") < 0)
