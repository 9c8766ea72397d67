cimport cython

from fastgw.accel.usage cimport UsageScanner

cdef int NO, PERHAPS, YES

cdef object _ENDS

@cython.final
cdef class Frames:
    cdef bytes _head
    cdef bint _final, _overlong, _reading, _within
    cdef long long _left
    cdef int _looked
    cdef bytearray _message
    cdef UsageScanner _scanner
    cdef public bint closes, lost
    cdef public tuple said

    cpdef bint stands(self) noexcept
    cpdef bint within(self) noexcept
    @cython.locals(size=Py_ssize_t, end=Py_ssize_t)
    cpdef Py_ssize_t feed(self, bytes data, Py_ssize_t at) except -1
    @cython.locals(head=bytes, start=Py_ssize_t, there=Py_ssize_t, first=cython.int, opcode=cython.int, early=Py_ssize_t,
                   size=cython.int, length=cython.longlong)
    cpdef Py_ssize_t _take_head(self, bytes data, Py_ssize_t at) except -1
    cpdef _lose(self)
    @cython.locals(message=bytearray, begun=bytes, held=Py_ssize_t, seen=cython.int)
    cpdef _keep(self, bytes data, Py_ssize_t start, Py_ssize_t end)
    cpdef tuple _end(self)

@cython.locals(close=Py_ssize_t, first=cython.bint)
cpdef int look(bytes data, Py_ssize_t start, Py_ssize_t end) except -1
