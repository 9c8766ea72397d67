cimport cython

from fastgw.accel.bodies cimport BodyFacts
from fastgw.accel.heads cimport RequestHead, ResponseHead
from fastgw.exchange.context cimport Context
from fastgw.exchange.endpoints cimport Endpoint
from fastgw.exchange.relay cimport Relay
from fastgw.limits.account cimport Account
from fastgw.limits.meter cimport Meter
from fastgw.net.client_conn cimport ClientConn
from fastgw.net.session cimport Session
from fastgw.stats cimport Stats
from fastgw.net.upstream_conn cimport UpstreamConn
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group

cdef double NEVER
cdef long long SHARED_FROM_BYTES

cdef class ExchangeState(Session):
    cdef public bytes body, extra_head, request_id
    cdef public Account account
    cdef public long long bytes_in, bytes_out, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens
    cdef public long long allowance, bound, held_bytes, reserved, reserved_minute
    cdef public str client_ip, detail, error_kind, key_id, substitute
    cdef public ClientConn conn
    cdef public Context gateway
    cdef public Endpoint endpoint
    cdef public BodyFacts facts
    cdef public long long shared_bytes
    cdef public object decoder, lane, local_task, phase, place, session, timer, upload
    cdef public double first_byte_at, queued_at, queued_s, routed_at, sent_at, started_at, timeout_s, token_at
    cdef public Group group
    cdef public list guards
    cdef public RequestHead head
    cdef public bytearray pieces
    cdef public Meter meter, minute
    cdef public Pool pool
    cdef public Relay relay
    cdef public ResponseHead response
    # (Together, so that no room is lost between them: an exchange of more than 496 bytes is allocated at a dearer place.)
    cdef public bint counted, estimated, faulty, judged, probe, replayed, reused, strip_usage, turn_due
    cdef public int kills, retries, status
    cdef public tuple tried
    cdef public UpstreamConn upstream

    cpdef fail(self, object error)
    cpdef client_may_go_on(self)
    cpdef resume(self)
    cpdef _end(self, str outcome, bint reusable)
    @cython.locals(
        gateway=Context, stats=Stats, budget=cython.longlong, held=cython.longlong, more=cython.longlong, most=cython.longlong, alone=cython.longlong
    )
    cpdef hold(self, long long size)
    @cython.locals(left=cython.longlong)
    cpdef let_go(self, long long size)
    cpdef let_body_go(self)
    cpdef _leave_engine(self)
    cpdef _hold_upstream(self)
    cpdef _client_broke(self)
