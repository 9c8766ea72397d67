# Types for fastgw/protocol/http1/server.py: the reader of requests is met by every read of a client.

from fastgw.accel.heads cimport Kept, RequestHead, RequestScanner, scan_request
from fastgw.accel.judges cimport broken, head_end, judge_request


cdef class RequestReader:
    cdef bytearray _buffer
    cdef Py_ssize_t _checked
    cdef int _empty_lines
    cdef object _max_fields
    cdef Py_ssize_t _max_head_bytes
    cdef RequestScanner _scanner
    cdef public bytes rest
    cdef public bint preface

    cpdef RequestHead adopt(self, Kept kept)
    cpdef Kept remembered(self, object known)
    cpdef RequestHead feed(self, bytes data)
    cdef object _collect(self, bytes data)
    cdef Py_ssize_t _skip_empty_lines(self, bytes data) except -1
    cdef str _wrong_early(self, object data, Py_ssize_t start, Py_ssize_t end)
