cimport cython

from fastgw.accel.heads cimport ResponseHead
from fastgw.accel.sockets cimport keep
from fastgw.net.clock cimport monotonic
from fastgw.net.h2_link cimport H2Link
from fastgw.net.poller cimport Reactor
from fastgw.net.upstream cimport Carrier, UpstreamStream
from fastgw.protocol.body cimport DataSource, NoSource
from fastgw.protocol.h2.writer cimport request_block
from fastgw.protocol.start cimport RequestStart

cdef int QUEUED, SENT
cdef Py_ssize_t _half_window
cdef double NEVER, TICK_S

cdef class Link(H2Link):
    cdef public tuple own
    cdef public bint blamed, connects

    cpdef begin(self, H2UpstreamStream stream, bytes block, bint last)
    cpdef data(self, H2UpstreamStream stream, bytes payload, bint last)
    cpdef stuck(self, H2UpstreamStream stream)
    cpdef credit(self, H2UpstreamStream stream, long long more)
    cpdef leave(self, H2UpstreamStream stream, int code)

cdef class Places:
    cdef public int unwanted

    cpdef gave_up(self, H2UpstreamStream stream)
    cpdef left(self, H2UpstreamStream stream)
    cpdef no_tunnels(self)
    cpdef crashed(self, object error)

# (Not final: a tunnel is one.)
cdef class H2UpstreamStream(UpstreamStream):
    cdef public Places home
    cdef public Reactor reactor
    cdef public Link link
    cdef public long number
    cdef public bytes method, piece, trailers
    cdef public long long window, room, pings
    cdef public Py_ssize_t out_bytes
    cdef public bint sent_whole, ended, dirty, held
    cdef object _out
    cdef Py_ssize_t _taken, _unsaid
    cdef long long _to_send, _length, _got
    cdef bint _owed, _told, _finished, _waits
    cdef public ResponseHead head
    cdef public int interim
    cdef public list pieces
    cdef public object by
    cdef public str fate
    cdef public object error
    cdef DataSource _source

    cpdef came(self, bytes payload)
    cpdef crash(self, object error, Carrier carrier)
    @cython.locals(link=Link)
    cdef _put(self, bytes data, Py_ssize_t skip)
    @cython.locals(gone=cython.Py_ssize_t, left=cython.Py_ssize_t, size=cython.Py_ssize_t, at=cython.Py_ssize_t)
    cdef Py_ssize_t _go(self, Link link, bytes data, Py_ssize_t start) except -1
    @cython.locals(link=Link, data=bytes, gone=cython.Py_ssize_t, carrier=Carrier)
    cpdef bint pump(self) except -1
    cdef _end(self, Link link)
    @cython.locals(carrier=Carrier)
    cpdef deliver(self)
    cdef _forget(self)
    @cython.locals(data=bytes)
    cdef bytes _taken_off(self)
    @cython.locals(count=cython.Py_ssize_t, data=bytes, head=ResponseHead)
    cdef _tell(self, Carrier carrier)
    cpdef came(self, bytes payload)
    @cython.locals(length=cython.longlong, status=cython.int, source=DataSource)
    cdef _begin(self, Carrier carrier, ResponseHead head, bytes data)
    cdef _note_end(self)
    cdef bint _lacks_trailers(self) except -1
    cdef _ends_without(self, Carrier carrier)
    cpdef padded(self, Py_ssize_t size)
    cdef _took(self, Py_ssize_t size)
    @cython.locals(link=Link, more=cython.longlong)
    cdef _say(self)
