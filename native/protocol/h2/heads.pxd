cimport cython

from fastgw.accel.heads cimport ResponseHead, scan_response

cdef dict _heads

@cython.locals(known=ResponseHead, judged=ResponseHead)
cpdef ResponseHead response_head(bytes block)
cdef bytes _checked(bytes key, bytes value)
