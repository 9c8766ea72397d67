cimport cython

@cython.final
cdef class Renamer:
    cdef bytes _new, _word
    cdef int _depth, _named, _prefix, _state
    cdef bint _drops, _escaped, _inner, _key, _lines, _string

    cpdef _begin(self)
    @cython.locals(out=list, kept=Py_ssize_t, at=Py_ssize_t, size=Py_ssize_t, byte=cython.int)
    cpdef bytes feed(self, bytes data)
    cpdef _before(self, int byte)
    @cython.locals(word=bytes)
    cpdef _in_string(self, int byte)
    cpdef _between(self, int byte)
