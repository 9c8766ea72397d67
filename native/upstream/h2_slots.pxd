cimport cython

from fastgw.net.clock cimport monotonic
from fastgw.net.h2_stream cimport H2UpstreamStream
from fastgw.net.h2_upstream cimport H2Home, H2UpstreamConn
from fastgw.net.h2_upstream_tunnel cimport H2UpstreamTunnel
from fastgw.net.poller cimport Reactor
from fastgw.net.upstream cimport Carrier
from fastgw.stats cimport Stats
from fastgw.upstream.target cimport Engine

cdef double NEVER

@cython.final
cdef class H2Slots(H2Home):
    cdef public Engine engine
    cdef public double connect_timeout_s
    cdef public list conns
    cdef public set dialling, leavers
    cdef public object connects, waiting
    cdef public long limit
    cdef object _keeper, _log, _shortage, _wire, _refused
    cdef Reactor _reactor
    cdef Stats _stats
    cdef tuple _own
    cdef bint _closed, _gone_at_once
    cdef double _warmed_at

    @cython.locals(stream=H2UpstreamStream, conn=H2UpstreamConn)
    cpdef H2UpstreamStream open(self, Carrier carrier, double now, int fresh=*)
    cdef H2UpstreamStream _wait_for_tunnel(self, H2UpstreamStream stream, double now)
    @cython.locals(tunnel=H2UpstreamTunnel)
    cdef H2UpstreamStream _tunnel(self, Carrier carrier)
    @cython.locals(conn=H2UpstreamConn)
    cdef H2UpstreamConn _with_room(self)
    @cython.locals(conn=H2UpstreamConn)
    cdef H2UpstreamConn _that_lives(self)
    @cython.locals(conn=H2UpstreamConn, stream=H2UpstreamStream, carrier=Carrier)
    cdef _serve(self)
