cimport cython

from fastgw.net.clock cimport monotonic
from fastgw.net.h1_upstream cimport H1UpstreamConn, H1UpstreamStream, Home
from fastgw.net.poller cimport Reactor
from fastgw.net.upstream cimport Carrier, UpstreamStream
from fastgw.stats cimport Stats
from fastgw.upstream.target cimport Engine

cdef class Pool(Home):
    # (Not final: a test's pool hands out streams without sockets.)
    cdef bint _closed
    cdef public bint gone_at_once
    cdef set _conns
    cdef object _log, _shortage
    cdef Reactor _reactor
    cdef Stats _stats
    cdef H1UpstreamConn _warming
    cdef public double connect_timeout_s, idle_limit_s
    cdef public Engine engine
    cdef public list idle
    cdef public Py_ssize_t connections, max_idle

    @cython.locals(conn=H1UpstreamConn)
    cpdef UpstreamStream open(self, Carrier carrier, double now, bint fresh=*)
    @cython.locals(conn=H1UpstreamConn, other=H1UpstreamConn)
    cdef H1UpstreamConn _take_idle(self, double now)
    @cython.locals(conn=H1UpstreamConn, at=cython.Py_ssize_t, last=cython.Py_ssize_t)
    cdef H1UpstreamConn _take_silent(self, double now)
    @cython.locals(conn=H1UpstreamConn, mine=H1UpstreamStream)
    cpdef give_back(self, UpstreamStream stream, double now, double idle_s, long long max_requests)
