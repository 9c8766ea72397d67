cimport cython

from fastgw.net.clock cimport monotonic
from fastgw.accel.heads cimport RequestHead
from fastgw.accel.sockets cimport keep, recv
from fastgw.net.session cimport Session
from fastgw.net.stream cimport RawStream
from fastgw.net.poller cimport Reactor
from fastgw.protocol.http1.server cimport RequestReader
from fastgw.stats cimport Stats

cdef Py_ssize_t PIPELINED_BYTES, RECV_BYTES
cdef int DEAD, LEFT, READ
cdef double NEVER, TICK_S

cdef class Service:
    cdef public bint draining

    cpdef open(self, ClientConn conn, RequestHead head)
    cpdef refuse(self, ClientConn conn, object error)
    cpdef crashed(self, ClientConn conn, object error)
    cpdef closed(self, ClientConn conn)

@cython.final
cdef class ConnLimits:
    cdef public double head_s, idle_s, body_s, write_s
    cdef public Py_ssize_t head_bytes, header_count

@cython.final
cdef class ClientConn(RawStream):
    cdef public bint _advancing, held_back, trusted
    cdef public Py_ssize_t _drained_bytes, _in_kernel, read_bytes
    cdef public int refusals
    cdef public object body, memo, state
    cdef public bytes forwarded, surplus
    cdef public ConnLimits limits
    cdef public str peer_ip
    cdef public RequestReader reader
    cdef public double received_at, total_deadline
    cdef public Service service
    cdef public Session sink
    cdef public Stats stats

    cpdef hold_back(self)
    cpdef go_on(self)
    cpdef _read_no_more(self)
    cpdef mind_leaving(self, bint minded)
    cpdef _take_head(self, bytes data)
    cpdef _take_body(self, bytes data)
    cpdef _take_early(self, bytes data)
    cpdef _take_discarded(self, bytes data)
    cpdef _gone(self, str how)
    cpdef _take_turn(self, bytes data)
    cpdef _next_turn(self)
    cpdef _advance(self)
    cpdef finished(self, bint keep_alive)
    cpdef _rest(self)
    cpdef answer(self, bytes data, bint keep_alive)
    cpdef _linger(self)
    cpdef abort(self, bint reset=*)
    cpdef close(self, bint reset=*)
    cpdef _close_now(self, bint reset=*)
    cpdef bint close_idle(self) except -1
    cpdef set_total_deadline(self, double deadline)
