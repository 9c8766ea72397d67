cimport cython

from fastgw.accel.masks cimport unmasked
from fastgw.accel.sockets cimport keep

cdef int _binary, _close, _continued, _fin, _pong, _text

@cython.final
cdef class MessageReader:
    cdef public list events
    cdef public int closed
    cdef public bytes reason
    cdef bint _deaf, _masked, _last
    cdef Py_ssize_t _texts
    cdef bytes _head, _key
    cdef long long _left, _phase
    cdef int _opcode, _within, _empty
    cdef bytearray _message, _part

    @cython.locals(size=Py_ssize_t, at=Py_ssize_t, end=Py_ssize_t, found=bytes, piece=bytes, more=list)
    cpdef bytes feed(self, bytes data)
    cpdef Py_ssize_t held(self) except -1
    cpdef forget_texts(self)
    @cython.locals(head=bytes, held=Py_ssize_t, start=Py_ssize_t, size=Py_ssize_t, first=cython.int, second=cython.int,
                   wide=Py_ssize_t, need=Py_ssize_t, place=Py_ssize_t, opcode=cython.int, length=cython.longlong)
    cdef Py_ssize_t _take_head(self, bytes data, Py_ssize_t at) except -1
    cdef Py_ssize_t _wait(self, bytes head, Py_ssize_t start, Py_ssize_t at) except -1
    @cython.locals(opcode=cython.int)
    cdef _judge(self, int first, int second)
    @cython.locals(opcode=cython.int, payload=bytes)
    cdef _frame_ends(self)
