cimport cython

from fastgw.accel.heads cimport ResponseHead
from fastgw.net.poller cimport Reactor
from fastgw.net.upstream cimport Carrier, UpstreamStream
from fastgw.net.wire cimport Holder, PlainWire, Wire
from fastgw.protocol.body cimport LengthSource, source_of
from fastgw.protocol.http1.client cimport ResponseReader
from fastgw.protocol.http1.writer cimport frame, request_head
from fastgw.protocol.start cimport RequestStart
from fastgw.stats cimport Stats

cdef Py_ssize_t JOIN_BYTES, RECV_BYTES
cdef double NEVER, TICK_S
cdef object BODY, CLOSED, CONNECTING, HEAD, IDLE, READY, TUNNEL
cdef bytes LAST_CHUNK

cdef class Home:
    cpdef idle_closed(self, H1UpstreamConn conn, bint by_engine)
    cpdef double unneeded(self, H1UpstreamConn conn, double now) except? -1.0
    cpdef gone(self, H1UpstreamConn conn)
    cpdef warmed(self, H1UpstreamConn conn)
    cpdef warm_failed(self, str detail)
    cpdef bint agreed_on_h2(self, H1UpstreamConn conn) except -1
    cpdef crashed(self, object error)

@cython.final
cdef class H1UpstreamStream(UpstreamStream):
    cdef public H1UpstreamConn conn
    cdef public bytes method
    cdef public bint upgrade
    cdef bint _chunked


@cython.final
cdef class H1UpstreamConn(Holder):
    cdef public object making
    cdef LengthSource _spare
    cdef public double idle_limit_at, idle_since
    cdef public Home home
    cdef public bytes own
    cdef public int interim
    cdef public long long idle_turn, requests
    cdef public Reactor reactor
    cdef public ResponseReader reader
    cdef public object state
    cdef public Stats stats
    cdef public H1UpstreamStream stream
    cdef public Wire wire

    cpdef H1UpstreamStream take(self, Carrier carrier)
    cpdef ResponseHead _after_interim(self, ResponseHead head, bint upgrade)
    cdef _ended(self, str how)
    @cython.locals(ask_at=cython.double, slot=cython.long)
    cpdef park(self, double now, double limit_s, double wait_s)
    cdef _idle_gone(self, bint by_engine)
    cpdef close(self)
    cpdef crash(self, object error, object carrier)
