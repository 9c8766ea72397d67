cimport cython

from fastgw.accel.frames cimport field_block, text
from fastgw.accel.heads cimport ResponseHead

cdef dict _statuses, _blocks, _names
cdef bytes _ID, _LENGTH, _UNBUFFERED, _DATE

cdef bytes _status(int status)
@cython.locals(out=list, line=bytes, key=bytes, value=bytes, start=bytes)
cdef bytes _written(bytes lines)
@cython.locals(block=bytes)
cdef bytes _remembered(bytes lines)
@cython.locals(more=bytes)
cpdef bytes engine_block(ResponseHead head, long long length, bytes request_id, bytes extra, bytes date)
cpdef bytes trailer_block(bytes lines)
cpdef bytes tunnel_block(ResponseHead head, bytes request_id)
@cython.locals(out=list)
cpdef bytes local_block(int status, bytes content_type, long long length, bytes lines, bytes date)
