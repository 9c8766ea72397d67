cimport cython

from fastgw.accel.frames cimport bare, cut
from fastgw.accel.heads cimport ResponseHead, scan_response

cdef dict _heads, _fields
cdef Py_ssize_t MOST_HEAD_BYTES, MOST_LIST_BYTES
cdef bytes _NAME, _VALUE

cdef bint _is_name(bytes key) except -1
cdef bint _is_value(bytes value) except -1

@cython.final
cdef class Field:
    cdef public bytes key, value, line
    cdef public str wrong
    cdef public Py_ssize_t size

@cython.locals(parts=list)
cpdef list read(bytes block)
@cython.locals(part=bytes, out=list, one=Field, total=cython.Py_ssize_t)
cpdef list known(list parts, dict secrets)
cdef ResponseHead _as_long(ResponseHead head, long long length)
@cython.locals(key=bytes, length=cython.longlong, known=ResponseHead, judged=ResponseHead, found=list, lines=list, one=Field, secret=cython.bint, trailer=cython.bint, status=cython.int)
cpdef ResponseHead response_head(bytes block)
cpdef bytes checked_line(bytes key, bytes value)
