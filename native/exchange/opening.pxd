cimport cython

from fastgw.accel.heads cimport ResponseHead
from fastgw.accel.sse cimport SseScanner
from fastgw.exchange.endpoints cimport Endpoint
from fastgw.exchange.figures cimport coded
from fastgw.protocol.body cimport Source

cdef int CHUNKS, NO_CONTENT
cdef Py_ssize_t MAX_OPENING_BYTES
cdef double OPENING_S

cpdef bint is_stream(Endpoint endpoint, ResponseHead head) except -1

@cython.final
cdef class Opening:
    cdef bytes _data, _line
    cdef double _until
    cdef SseScanner _sse
    cdef public ResponseHead head
    cdef public Source reads, source
    cdef public bytes came
    cdef public str why

    @cython.locals(payload=bytes, verdict=cython.int)
    cpdef int feed(self, bytes data, double now=*) except -1
    @cython.locals(verdict=cython.int)
    cpdef int eof(self, str how) except -1
    @cython.locals(sse=SseScanner, begins=cython.bint, fails=cython.bint, line=bytes)
    cpdef int _verdict(self, bytes payload, bint done) except -1
    cpdef bint _first_fails(self) except -1
    cpdef bint _fails(self, bytes data, bint named) except -1
    cpdef tuple refusal(self, Endpoint endpoint)
