cimport cython

from fastgw.accel.sockets cimport recv
from fastgw.net.client cimport Connection, Service
from fastgw.net.client cimport ConnLimits as Figures
from fastgw.net.clock cimport monotonic
from fastgw.net.descriptors cimport finish
from fastgw.net.poller cimport Poller, Reactor
from fastgw.net.timers cimport TimerWheel
from fastgw.net.tls cimport TlsWire
from fastgw.stats cimport Stats

cdef double NEVER
cdef int READ
cdef Py_ssize_t RECV_BYTES

@cython.final
cdef class Entrance:
    cdef public set connections
    cdef public object done, end, failed
    cdef public Figures limits
    cdef public Reactor reactor
    cdef public Service service
    cdef public Stats stats

    cpdef Handshake admit(self, int fd, str peer_ip)

@cython.final
cdef class Handshake(Connection):
    cdef Entrance _door
    cdef Py_ssize_t _drained_bytes
    cdef bint _lingers
    cdef public str peer_ip
    cdef public TlsWire wire

    cdef _linger(self)
    cpdef close(self, bint reset=*)
    cdef _end(self)
