cimport cython

from fastgw.net.clock cimport monotonic
from fastgw.accel.heads cimport ResponseHead
from fastgw.accel.sockets cimport recv
from fastgw.net.session cimport Session
from fastgw.net.stream cimport RawStream
from fastgw.net.poller cimport Poller, Reactor
from fastgw.protocol.http1.client cimport ResponseReader
from fastgw.stats cimport Stats

cdef Py_ssize_t RECV_BYTES
cdef double NEVER, TICK_S
cdef int WRITE

cdef class Home:
    cpdef idle_closed(self, UpstreamConn conn, bint by_engine)
    cpdef gone(self, UpstreamConn conn)
    cpdef warmed(self, UpstreamConn conn)
    cpdef warm_failed(self, str detail)
    cpdef crashed(self, object error)

@cython.final
cdef class UpstreamConn(RawStream):
    cdef public tuple _rest_of_addresses
    cdef public Session carrier
    cdef public double dial_deadline, idle_limit_at, idle_since
    cdef public Home home
    cdef public int interim
    cdef public long long idle_turn, requests
    cdef public ResponseReader reader
    cdef public object state
    cdef public Stats stats

    cpdef _dialled(self)
    cpdef begin(self, Session carrier, bytes data, double deadline)
    cpdef ResponseHead _after_interim(self, ResponseHead head, bint upgrade)
    cpdef park(self, double now, double limit_s)
    cpdef _idle_gone(self, bint by_engine)
    cpdef close(self, bint reset=*)
    cpdef _close_now(self, bint reset=*)
