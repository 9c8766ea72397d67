cimport cython

from fastgw.accel.heads cimport RequestHead
from fastgw.accel.lines cimport trace_lines
from fastgw.net.clock cimport monotonic

cdef int NOT_SAMPLED, SAMPLED, UNSAID
cdef Py_ssize_t IDS, IDS_AT_ONCE
cdef bytes ALL

@cython.locals(at=Py_ssize_t)
cpdef str kept_in(bytes fields)

@cython.final
cdef class Asked:
    cdef public double at
    cdef public object call
    cdef public str model, why
    cdef public bytes span_id
    cdef public int status

@cython.final
cdef class Contents:
    cdef public bytearray answer
    cdef public bint cut
    cdef public Py_ssize_t most
    cdef public bytes prompt

    @cython.locals(room=Py_ssize_t)
    cpdef hears(self, bytes data)

@cython.final
cdef class Trace:
    cdef public bytes parent, span_id, state, trace_id
    cdef public list asked, waits
    cdef public Contents contents
    cdef public bint sampled

    cpdef make(self, bytes trace_id, bytes span_id, bytes parent, bint sampled, bytes state)
    @cython.locals(asked=list, last=Asked)
    cpdef asks(self, object call, str model, str why)
    @cython.locals(last=Asked)
    cpdef refused(self, int status)
    cpdef waited(self, double start, double end)
    @cython.locals(last=Asked)
    cpdef bytes told(self)

@cython.final
cdef class Tracing:
    cdef public object reporter
    cdef bytes _bound, _ids
    cdef bint _parents
    cdef Py_ssize_t _at

    cpdef follow(self, object config)
    @cython.locals(digits="const char *", bound="const char *", at=Py_ssize_t)
    cpdef bint samples(self, bytes trace_id, int parent) except -1
    @cython.locals(
        at=Py_ssize_t, middle=Py_ssize_t, end=Py_ssize_t, ids="const char *", made=Trace, span_id=bytes, trace_id=bytes,
    )
    cpdef Trace begin(self, RequestHead head, bint alone)
