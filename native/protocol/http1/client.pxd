# Types for fastgw/protocol/http1/client.py: the reader of responses is met by every answer of an engine.

from fastgw.accel.heads cimport ResponseHead, ResponseScanner, scan_response
from fastgw.accel.judges cimport broken, head_end, judge_response


cdef class ResponseReader:
    cdef bytearray _buffer
    cdef Py_ssize_t _checked
    cdef object _max_fields
    cdef Py_ssize_t _max_head_bytes
    cdef ResponseScanner _scanner
    cdef public bytes rest

    cpdef ResponseHead feed(self, bytes data)
    cdef object _collect(self, bytes data)
    cdef str _wrong_early(self, object data, Py_ssize_t end)
