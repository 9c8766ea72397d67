cimport cython

from fastgw.accel.heads cimport Kept, RequestHead, ResponseHead
from fastgw.accel.landing cimport Landing
from fastgw.net.timers cimport Timed, TimerWheel
from fastgw.net.wire cimport Holder

cdef double NEVER

cdef class Sink:
    cpdef on_body(self, bytes data, bint last)
    cpdef Landing landing(self, long long length)
    cpdef hold(self, long long size)
    cpdef let_go(self, long long size)
    cpdef on_gone(self, str how)
    cpdef on_drained(self)
    cpdef on_stalled(self)
    cpdef on_error(self, object error)
    cpdef on_total_timeout(self)
    cpdef on_tunnel_data(self, bytes data)
    cpdef on_tunnel_end(self)

cpdef bytes told_of(str peer_ip, bint trusted, bint secured)

cdef class ClientStream(Timed):
    cdef public bint bounded, connects, trusted
    cdef public bytes forwarded
    cdef public int frames, refusals
    cdef public RequestHead head
    cdef public object known
    cdef public object spoken
    cdef public str peer_ip
    cdef public double received_at
    cdef public long long sent
    cdef public Service service
    cdef public Sink sink
    cdef public TimerWheel wheel

    cdef _set_up(self, TimerWheel wheel, Service service, str peer_ip, bint trusted, bytes forwarded)
    cpdef due(self, double deadline)
    cpdef go_ahead(self)
    cpdef hold_back(self)
    cpdef go_on(self)
    cpdef mind_leaving(self, bint minded)
    cpdef answer(self, ResponseHead head, bytes request_id, bytes extra, bytes body)
    cpdef local(self, int status, bytes content_type, bytes body, bytes lines)
    cpdef refuse(self, int status, bytes body, bytes lines, bint close)
    cpdef begin(self, ResponseHead head, long long length, bytes request_id, bytes extra)
    cpdef int flush(self) except -2
    cpdef int write(self, bytes payload) except -2
    cpdef int write_wire(self, bytes wire) except -2
    cpdef trail(self, bytes lines)
    cpdef int end(self, bytes payload) except -2
    cpdef finish(self)
    cpdef break_off(self, bint told)
    cpdef int upgrade(self, ResponseHead head, bytes request_id, bytes data) except -2
    cpdef bytes early(self)
    cpdef pause(self)
    cpdef resume(self)
    cpdef int pass_on(self, bytes data) except -2
    cpdef hang_up(self)
    cpdef tear_off(self)

@cython.final
cdef class ConnLimits:
    cdef public double head_s, idle_s, body_s, write_s
    cdef public Py_ssize_t head_bytes, header_count

cdef class Connection(Holder):
    cpdef list streams(self)
    cpdef bint close_idle(self) except -1

cdef class Service:
    cdef public bint draining

    cpdef open(self, ClientStream stream, RequestHead head)
    cpdef object recalled(self, ClientStream stream, Kept kept, RequestHead head)
    cpdef refuse(self, ClientStream stream, object error)
    cpdef bint other_protocol(self, Connection connection, bytes rest) except -1
    cpdef crashed(self, ClientStream stream, object error)
    cpdef closed(self, Connection connection, str peer_ip)
