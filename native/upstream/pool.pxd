cimport cython

from fastgw.net.clock cimport monotonic
from fastgw.net.h1_upstream cimport H1UpstreamConn, H1UpstreamStream, Home
from fastgw.net.poller cimport Reactor
from fastgw.net.upstream cimport Carrier, UpstreamStream
from fastgw.stats cimport Stats
from fastgw.upstream.target cimport Engine

cdef Py_ssize_t _neighbours
cdef int HTTP1, UPGRADE

cdef class Pool(Home):
    # (Not final: a test's pool hands out streams without sockets.)
    cdef bint _closed, _h2
    cdef object _slots
    cdef public bint gone_at_once
    cdef set _conns
    cdef object _log, _shortage
    cdef Reactor _reactor
    cdef Stats _stats
    cdef H1UpstreamConn _warming
    cdef long long _tick, _turn
    cdef Py_ssize_t _died, _from_before, _tick_closes
    cdef public double connect_timeout_s, idle_limit_s
    cdef public Engine engine
    cdef public list idle
    cdef public Py_ssize_t connections

    @cython.locals(conn=H1UpstreamConn)
    cpdef UpstreamStream open(self, Carrier carrier, double now, int fresh=*)
    @cython.locals(conn=H1UpstreamConn, at=cython.Py_ssize_t, least=cython.Py_ssize_t)
    cdef H1UpstreamConn _take_idle(self, double now)
    @cython.locals(turn=cython.longlong, last=cython.Py_ssize_t)
    cdef Py_ssize_t _before(self) except -1
    cdef _drop(self, H1UpstreamConn conn)
    cpdef idle_closed(self, H1UpstreamConn conn, bint by_engine)
    @cython.locals(tick=cython.longlong)
    cpdef double unneeded(self, H1UpstreamConn conn, double now) except? -1.0
    @cython.locals(conn=H1UpstreamConn)
    cpdef _sweep(self)
    @cython.locals(conn=H1UpstreamConn)
    cpdef change(self, double connect_timeout_s)
    @cython.locals(conn=H1UpstreamConn, full=cython.bint, mine=H1UpstreamStream)
    cpdef give_back(self, UpstreamStream stream, double now, double idle_s, long long max_requests)
