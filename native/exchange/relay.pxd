from fastgw.accel.lines cimport chunk
cimport cython

from fastgw.accel.chunks cimport ChunkScanner
from fastgw.accel.sse cimport SseScanner, passes
from fastgw.accel.usage cimport UsageScanner
from fastgw.net.stream cimport RawStream

cdef long long UNLIMITED
cdef Py_ssize_t MAX_EVENT_BYTES

@cython.final
cdef class Relay:
    cdef ChunkScanner _chunks
    cdef object _framing
    cdef RawStream _writer
    cdef bytes _held
    cdef bytes _rest
    cdef bytearray _end
    cdef tuple _known
    cdef bint _rest_ends
    cdef long long _left
    cdef UsageScanner _usage
    cdef public bint begun, chunked_out, closing, ended, reusable
    cdef public str broken
    cdef public long long body_bytes
    cdef public long long bytes_out
    cdef long long _total
    cdef public long long limit, prompt
    cdef public SseScanner sse
    cdef public int written

    @cython.locals(at=Py_ssize_t, stop=Py_ssize_t, spent=cython.bint, done=cython.bint)
    cpdef int go_on(self) except -1
    cpdef int close(self) except -1
    cpdef int _wait_for_end(self, bytes payload, bint done) except -1
    @cython.locals(end=bytes)
    cpdef bint pass_end(self) except -1
    cpdef allow(self, long long tokens, long long prompt)
    @cython.locals(said="long long")
    cpdef _follow(self)
    cpdef bint _near(self, Py_ssize_t size) except -1
    cpdef _put(self, bytes wire)
    cpdef _pass_on(self, bytes payload)
    cpdef int start(self, bytes head, bytes rest) except -1
    @cython.locals(near=cython.bint, size=Py_ssize_t)
    cpdef int feed(self, bytes data) except -1
    cpdef bint skim(self, bytes data) except -1
    cpdef int eof(self, str how) except -1
    cpdef bint finish(self, bytes event) except -1
    cpdef bint break_off(self, bytes event) except -1
    cpdef tuple usage(self)
    cpdef long long seconds(self)
