cimport cython

from fastgw.accel.histograms cimport Histogram
from fastgw.accel.sse cimport SseScanner, line_at
from fastgw.accel.usage cimport UsageScanner
from fastgw.net.client cimport ClientStream
from fastgw.protocol.body cimport Source

cdef int ANYHOW, AT_A_REASON, AT_ITS_LAST, MARKED, NAMED
cdef long long UNLIMITED
cdef Py_ssize_t MAX_EVENT_BYTES

@cython.final
@cython.freelist(64)
cdef class Relay:
    cdef ClientStream _client
    cdef bytes _owed, _rest
    cdef bytearray _end
    cdef tuple _known
    cdef bint _rest_ends, _torn
    cdef UsageScanner _usage
    cdef public bint begun, closing, ended, follows, gone, wrote
    cdef public str broken
    cdef public long long body_bytes
    cdef long long _events, _tokens, _total
    cdef double _text_at
    cdef public Histogram engine_gaps, gaps
    cdef public long long limit, prompt
    cdef public Source source
    cdef public SseScanner sse
    cdef public object dialect, show
    cdef public int ends, written

    cpdef int start(self, bytes rest) except -1
    cpdef allow(self, long long tokens, long long prompt)
    @cython.locals(said="long long")
    cpdef _follow(self)
    cpdef bint _near(self, Py_ssize_t size) except -1
    @cython.locals(
        source=Source, client=ClientStream, sse=SseScanner, near=cython.bint, alike=cython.bint, done=cython.bint, size=Py_ssize_t, payload=bytes,
        out=bytes, held=bytes, trailers=bytes,
    )
    cpdef int feed(self, bytes data) except -1
    cpdef _pass(self, bytes out, bint last)
    cpdef _put(self, bytes out, bint last)
    @cython.locals(sse=SseScanner, rest=bytes, out=list, line=bytes, at=Py_ssize_t, spent=cython.bint, done=cython.bint)
    cpdef int go_on(self) except -1
    cpdef int close(self) except -1
    cpdef int _wait_for_end(self, bytes payload, bint done) except -1
    @cython.locals(end=bytes)
    cpdef bint pass_end(self) except -1
    cpdef _pass_on(self, bytes payload, bint near)
    @cython.locals(whole=cython.bint, out=bytes)
    cpdef int eof(self, str how) except -1
    @cython.locals(sse=SseScanner, gaps=Histogram, theirs=Histogram, events="long long", tokens="long long")
    cpdef paced(self, double now)
    cpdef bint finish(self, bytes event) except -1
    cpdef bytes _last_of(self, SseScanner sse)
    @cython.locals(sse=SseScanner)
    cpdef bint _whole(self) except -1
    cpdef bint _is_done(self, SseScanner sse) except -1
    cpdef int _breaks(self, bytes out) except -1
    @cython.locals(sse=SseScanner)
    cpdef bint completes(self) except -1
    cpdef overhear(self, bytes payload, bint last)
    @cython.locals(owed=bytes)
    cpdef bint _settles(self) except -1
    cpdef bint break_off(self, bytes event) except -1
    cpdef tuple usage(self)
    cpdef bint failed(self) except -1
    cpdef bint answers(self) except -1
    cpdef bytes failure(self)
    cpdef long long seconds(self)
