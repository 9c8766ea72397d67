cimport cython

from fastgw.accel.landing cimport Landing
from fastgw.accel.masks cimport framed, unmasked
from fastgw.accel.sockets cimport keep
from fastgw.net.clock cimport monotonic
from fastgw.net.poller cimport Poller, Reactor
from fastgw.net.wire cimport Holder, Wire
from fastgw.protocol.messages cimport MessageReader

cdef int DEAD, QUEUED, SENT
cdef int CLOSING, OPEN, OVER
cdef int BINARY, CLOSE, FIN, PING, PONG
cdef Py_ssize_t RECV_BYTES

cdef class Talk:
    cpdef on_text(self, bytes text)
    cpdef bint on_sign(self) except -1
    cpdef on_room(self)
    cpdef on_over(self, int code, str why)

# (Not final: what they have from their bases is declared again, for the types of its locals.)
cdef class WebSocketEnd(Holder):
    cdef bint _client
    cdef bytes _keys
    cdef Py_ssize_t _keys_at
    cdef Reactor _reactor
    cdef int _state
    cdef public bint heard
    cdef public tuple farewell
    cdef public Wire inner
    cdef public MessageReader reader
    cdef public Talk talk
    cdef public WebSocketWire wire

    @cython.locals(data=bytes)
    cpdef on_readable(self)
    @cython.locals(reader=MessageReader, payload=bytes, wire=WebSocketWire, code=cython.int)
    cpdef came(self, bytes data)
    @cython.locals(talk=Talk)
    cdef _tell(self)
    @cython.locals(at=Py_ssize_t)
    cdef bytes _key(self)
    cdef _put(self, int kind, bytes payload)
    cpdef Py_ssize_t waiting(self) except -1
    @cython.locals(inner=Wire, size=Py_ssize_t, stop=Py_ssize_t)
    cpdef Py_ssize_t push(self, bytes data, Py_ssize_t start) except -2
    @cython.locals(wire=WebSocketWire, talk=Talk)
    cpdef on_written(self)
    @cython.locals(wire=WebSocketWire)
    cpdef on_progressed(self)
    @cython.locals(wire=WebSocketWire)
    cdef _cut_wire(self)
    @cython.locals(talk=Talk)
    cdef _end(self, int code, str why)

cdef class WebSocketWire(Wire):
    cdef bint _again, _congested, _lost
    cdef WebSocketEnd _end
    cdef Py_ssize_t _gone
    cdef bytes _plain
    cdef object _rest

    @cython.locals(holder=Holder)
    cpdef come(self, bytes payload)
    @cython.locals(holder=Holder)
    cpdef lose(self)
    cdef _call_again(self)
    cpdef _more(self)
    @cython.locals(end=WebSocketEnd, data=bytes, at=Py_ssize_t, holder=Holder)
    cpdef go_on(self)
    cpdef progressed(self)
    cdef _count(self)
