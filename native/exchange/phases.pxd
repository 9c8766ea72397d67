cimport cython

cdef bytes _table
cdef int _MOST, _NONE

@cython.locals(found=cython.int)
cpdef int moved(int phase, int event) except -1
