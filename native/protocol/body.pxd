cimport cython

from fastgw.accel.chunks cimport ChunkScanner
from fastgw.accel.heads cimport ResponseHead
from fastgw.accel.landing cimport Landing
from fastgw.accel.sse cimport SseScanner, passes

cdef class Source:
    cdef public bint aligned, done, spoiled
    cdef public int frames
    cdef public long long left, length
    cdef public bytes rest
    cdef public Landing landing

    cpdef bytes feed(self, bytes data)
    cpdef Py_ssize_t passes(self, SseScanner sse, bytes data) except -1
    cpdef bytes trailers(self)
    cpdef bint eof(self, str how) except -1

@cython.final
cdef class NoSource(Source):
    pass

@cython.final
cdef class LengthSource(Source):
    cpdef begin(self, long long length)
    cpdef took(self, long long size)

cdef class ChunkedSource(Source):
    cdef ChunkScanner _scanner

@cython.final
cdef class CloseSource(Source):
    pass

@cython.final
cdef class DataSource(Source):
    cdef public bint ended, waits
    cdef public bytes fields

cpdef Source source_of(ResponseHead head, bytes method, LengthSource spare=*)
