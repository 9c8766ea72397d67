cimport cython

from fastgw.accel.landing cimport Landing
from fastgw.net.client cimport ConnLimits as Figures
from fastgw.net.clock cimport monotonic
from fastgw.net.h1_client cimport H1ClientStream, Host
from fastgw.net.poller cimport Reactor
from fastgw.net.wire cimport Wire
from fastgw.protocol.body cimport Source

cdef Py_ssize_t BODY_PROGRESS_BYTES, DISCARD_BYTES, RECV_BYTES
cdef double NEVER
cdef object BODY, BUSY, CLOSED, HEAD, OPENING

cdef class Arrival(Host):
    cdef public bint _broken, _long, body_begun
    cdef public Py_ssize_t _drained_bytes
    cdef public object state
    cdef public bytes surplus
    cdef public Source body
    cdef public H1ClientStream stream

    cdef _set_up(self, Reactor reactor, Wire wire, Figures limits)
    @cython.locals(landing=Landing)
    cdef _take_body(self, bytes data)
    cdef bint _hand_over(self, H1ClientStream stream, bytes rest) except -1
    cdef _came(self, bytes payload, Py_ssize_t size)
    cdef _body_late(self, str detail)
    cdef bint _said_last(self) except -1
