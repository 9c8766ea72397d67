cimport cython

from fastgw.accel.landing cimport Landing
from fastgw.accel.sockets cimport keep, recv, send, send_from, unread
from fastgw.net.descriptors cimport finish
from fastgw.net.poller cimport Poller
from fastgw.net.tls_shake cimport ShakingWire
from fastgw.net.wire cimport Holder, Wire

cdef int CLOSED, CUT, DEAD, QUEUED, SENT, WRITE
cdef Py_ssize_t AHEAD_BYTES, OVERHEAD_BYTES, RECORD_BYTES, RECV_BYTES, TURN_BYTES

@cython.final
cdef class TlsWire(ShakingWire):
    cdef bytes _pull(self, Py_ssize_t size)
    @cython.locals(size=cython.Py_ssize_t, at=cython.Py_ssize_t)
    cdef bytes _unlocked(self, bytes data)
    cdef _call_again(self)
    cpdef _more(self)
    cdef int _deliver(self, bytes cipher) except -2
    @cython.locals(size=cython.Py_ssize_t, stop=cython.Py_ssize_t, sent=cython.Py_ssize_t, cipher=bytes)
    cdef int _write_long(self, bytes data, Py_ssize_t start) except -2
    @cython.locals(size=cython.Py_ssize_t, end=cython.Py_ssize_t, to=cython.Py_ssize_t)
    cdef tuple _sealed(self, bytes data, Py_ssize_t start)
    @cython.locals(turn=cython.Py_ssize_t, sent=cython.Py_ssize_t, cipher=bytes, data=bytes, start=cython.Py_ssize_t)
    cdef bint _drain(self) except -1
    cdef _say_end(self)
