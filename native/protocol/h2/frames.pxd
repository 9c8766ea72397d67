cimport cython

from fastgw.accel.frames cimport framed, header

@cython.locals(size=cython.Py_ssize_t, flags=cython.int)
cpdef bytes headers(long stream, bytes block, bint last)
cpdef bytes window_update(long stream, long long more)
