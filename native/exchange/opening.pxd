cimport cython

from fastgw.accel.heads cimport ResponseHead
from fastgw.accel.sse cimport SseScanner
from fastgw.exchange.endpoints cimport Endpoint
from fastgw.exchange.figures cimport coded
from fastgw.protocol.body cimport Source

cdef int CHUNKS, NO_CONTENT
cdef str MESSAGES, OLLAMA, RESPONSES
cdef Py_ssize_t MAX_OPENING_BYTES
cdef double ANNOUNCED_S, OPENING_S
cdef tuple HEARING, _ERRORS

cpdef bint is_held(Endpoint endpoint, ResponseHead head, Source source, bytes rest) except -1
@cython.locals(one=bytes, at=Py_ssize_t, c=cython.uchar)
cpdef bint may_fail(bytes text) except -1

@cython.final
cdef class Opening:
    cdef bint _announces, _hears
    cdef bytes _data, _text
    cdef public bint announced, plain
    cdef public double until
    cdef SseScanner _sse
    cdef public ResponseHead head
    cdef public Source reads, source
    cdef public bytes came
    cdef public str why

    @cython.locals(payload=bytes, reads=Source, announced=cython.bint, verdict=cython.int)
    cpdef int feed(self, bytes data, double now=*) except -1
    @cython.locals(verdict=cython.int)
    cpdef int eof(self, str how) except -1
    @cython.locals(verdict=cython.int)
    cpdef int _verdict(self, bytes payload, bint done) except -1
    @cython.locals(text=bytes)
    cpdef int _of_plain(self, bytes payload, bint done) except -1
    @cython.locals(text=bytes, end=Py_ssize_t)
    cpdef int _of_lines(self, bytes payload, bint done) except -1
    @cython.locals(begins=cython.bint)
    cpdef int _of_events(self, SseScanner sse, bytes payload, bint done) except -1
    @cython.locals(verdict=cython.int)
    cpdef int _first(self, bint done) except -1
    cpdef int _said(self, bytes data, bint named) except -1
    cpdef tuple refusal(self, Endpoint endpoint)
