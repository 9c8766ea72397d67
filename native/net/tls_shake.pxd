cimport cython

from fastgw.accel.sockets cimport recv, send, send_last
from fastgw.net.descriptors cimport dial_error
from fastgw.net.poller cimport Poller, Reactor
from fastgw.net.wire cimport Holder, Wire

cdef int READ, WRITE, QUEUED
cdef Py_ssize_t MAX_HANDSHAKE_BYTES, RECORD_BYTES

cdef class ShakingWire(Wire):
    cdef bint _accepts, _again, _congested, _finishing, _first, _shaking
    cdef bytes _cipher, _plain
    cdef public bytes certificate
    cdef Py_ssize_t _cipher_sent, _shaken_bytes
    cdef object _end, _incoming, _inner, _outgoing, _tls
    cdef int _ended
    cdef public str protocol, trouble, version

    cdef _begin_anew(self)
    cdef _open_session(self)
    cdef _connected(self)
    cdef _shake_on(self)
    cdef _shake(self)
    cdef _shaken(self)
    cdef _failed(self, str why)
    cdef _flush(self)
    cdef bytes _opened(self)
    cdef int _await(self, bytes cipher, Py_ssize_t sent) except -2
    @cython.locals(cipher=bytes, left=bytes, sent=cython.Py_ssize_t)
    cdef _reply(self, bint last=*)
