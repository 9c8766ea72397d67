cimport cython

from fastgw.accel.frames cimport text
from fastgw.accel.huffman cimport unpacked

cdef tuple _STATIC
cdef dict _WHOLE, _NAMES

@cython.locals(at=cython.Py_ssize_t)
cpdef bytes name(bytes key)
cpdef bytes field(bytes key, bytes value)

@cython.locals(most=cython.Py_ssize_t, value=cython.Py_ssize_t, shift=cython.int, byte=cython.int)
cdef (Py_ssize_t, Py_ssize_t) _number(bytes block, Py_ssize_t at, int bits) except *
@cython.locals(packed=cython.int, size=cython.Py_ssize_t, end=cython.Py_ssize_t, value=bytes)
cdef tuple _string(bytes block, Py_ssize_t at)
cdef bytes _unpacked(bytes value)
@cython.locals(out=list, total=cython.Py_ssize_t, at=cython.Py_ssize_t, end=cython.Py_ssize_t, first=cython.int, which=cython.Py_ssize_t,
               size=cython.Py_ssize_t, key=bytes, value=bytes)
cpdef list fields(bytes block)
cpdef Py_ssize_t value_at(bytes part) except -1
cpdef tuple string_at(bytes block, Py_ssize_t at)

@cython.final
cdef class Decoder:
    cdef object _entries
    cdef Py_ssize_t _size, _room
    cdef public long long changes
    cdef public Py_ssize_t length_at, length_end

    @cython.locals(out=list, total=cython.Py_ssize_t, at=cython.Py_ssize_t, updates=cython.int, count=cython.Py_ssize_t, end=cython.Py_ssize_t, first=cython.int,
                   which=cython.Py_ssize_t, size=cython.Py_ssize_t, start=cython.Py_ssize_t, key=bytes, value=bytes,
                   read_bytes=cython.Py_ssize_t, read_fields=cython.Py_ssize_t, kept_bytes=cython.Py_ssize_t, kept_fields=cython.Py_ssize_t)
    cpdef list fields(self, bytes block)
    cpdef bint keeps_nothing(self) except -1
    cdef tuple _entry(self, Py_ssize_t which)
    cdef _resize(self, Py_ssize_t room)
    @cython.locals(size=cython.Py_ssize_t)
    cdef _add(self, bytes key, bytes value)
    @cython.locals(key=bytes, value=bytes)
    cdef _shrink(self, Py_ssize_t room)
