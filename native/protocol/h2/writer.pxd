cimport cython

from fastgw.accel.frames cimport field_block, text
from fastgw.protocol.start cimport RequestStart

cpdef bytes request_block(tuple own, tuple start, bytes trace, bytes request_id, long long length, bytes method)
