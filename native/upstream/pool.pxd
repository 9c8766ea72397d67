cimport cython

from fastgw.net.clock cimport monotonic
from fastgw.net.session cimport Session
from fastgw.net.poller cimport Poller, Reactor
from fastgw.net.upstream_conn cimport Home, UpstreamConn
from fastgw.stats cimport Stats
from fastgw.upstream.target cimport Engine

@cython.final
cdef class Pool(Home):
    cdef bint _closed
    cdef object _log, _shortage
    cdef Reactor _reactor
    cdef Stats _stats
    cdef UpstreamConn _warming
    cdef public double connect_timeout_s, idle_limit_s
    cdef public Engine engine
    cdef public list idle
    cdef public Py_ssize_t max_idle, open

    @cython.locals(conn=UpstreamConn, other=UpstreamConn)
    cpdef UpstreamConn take_idle(self, double now)
    @cython.locals(conn=UpstreamConn, at=cython.Py_ssize_t, last=cython.Py_ssize_t)
    cpdef UpstreamConn _take_silent(self, double now)
    cpdef UpstreamConn dial(self, Session carrier)
    cpdef release(self, UpstreamConn conn, double now, double idle_s, long long max_requests)
