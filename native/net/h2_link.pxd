cimport cython

from fastgw.accel.frames cimport FrameReader
from fastgw.net.clock cimport monotonic
from fastgw.net.poller cimport Reactor
from fastgw.net.wire cimport Holder, Wire
from fastgw.protocol.h2.budget cimport Budgets

cdef int DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, PRIORITISED
cdef int QUEUED
cdef object _greeting
cdef Py_ssize_t RECV_BYTES, _half_window

cdef class H2Link(Holder):
    cdef public Reactor reactor
    cdef public Wire wire
    cdef public object state, control
    cdef public Budgets budgets
    cdef public FrameReader reader
    cdef public long long window
    cdef public bint writable
    cdef list _out
    cdef bint _flushing, _pinged, _heard
    cdef double _asked_at, _half_at
    cdef long long _room, _unsaid, _pings, _acked
    cdef bytearray _block
    cdef long _block_stream
    cdef int _block_flags, _continuations

    cpdef on_data(self, long number, Py_ssize_t size, Py_ssize_t taken, bytes payload, bint last)
    cpdef on_block(self, long number, bytes block, bint last)
    cpdef on_reset(self, long number, long code)
    cpdef on_window(self, long number, long long more)
    cpdef on_room(self)
    cpdef bint is_idle(self, long number) except -1
    cpdef deliver(self)
    cpdef halved(self)
    cpdef double unanswered_for(self, double now) except? -1
    cpdef double half_for(self, double now) except? -1
    cdef _note_half(self, int found)
    cpdef flushing(self)
    cpdef flushed(self)
    cpdef put(self, bytes data)
    cpdef flush_soon(self)
    @cython.locals(data=bytes)
    cpdef flush(self)
    cpdef bint unacked(self) except -1
    @cython.locals(size=cython.Py_ssize_t, taken=cython.Py_ssize_t, payload=bytes, flags=cython.int, last=cython.bint)
    cdef _take_data(self, FrameReader reader)
    @cython.locals(kind=cython.int)
    cdef _take(self, FrameReader reader)
    cdef _not_idle(self, long number)
    cpdef stray(self, long number)
    @cython.locals(reader=FrameReader, found=cython.int)
    cpdef came(self, bytes data)
    cpdef on_other(self, int kind, long number, bytes payload)
    @cython.locals(flags=cython.int, block=bytes, number=cython.long)
    cdef _take_headers(self, FrameReader reader)
    @cython.locals(block=bytes, number=cython.long)
    cdef _continue(self, FrameReader reader)
    cdef _take_control(self, FrameReader reader)
    @cython.locals(more=cython.longlong, number=cython.long)
    cdef _take_window_update(self, FrameReader reader)
