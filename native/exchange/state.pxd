cimport cython

from fastgw.accel.bodies cimport BodyFacts
from fastgw.accel.heads cimport RequestHead
from fastgw.exchange.call cimport Call
from fastgw.exchange.context cimport Context
from fastgw.exchange.endpoints cimport Endpoint
from fastgw.exchange.plan cimport Tries
from fastgw.exchange.tracing cimport Trace
from fastgw.limits.account cimport Account
from fastgw.limits.meter cimport Meter
from fastgw.limits.purse cimport Hold
from fastgw.net.client cimport ClientStream, Sink
from fastgw.stats cimport Stats
from fastgw.upstream.table cimport Group

cdef int EVENT_COUNT, NOWHERE, RECEIVING
cdef bytes TABLE
cdef long long SHARED_FROM_BYTES, _no_limit
cdef Tries NONE_YET

cdef class ExchangeState(Sink):
    cdef public bytes body, extra_head, lead, request_id
    cdef public Account account
    cdef public long long bytes_in, bytes_out, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens
    cdef public long long allowance, bound, held_bytes, reserved, reserved_minute, shared_bytes
    cdef public Call call
    cdef public ClientStream client
    cdef public str client_ip, detail, error_kind, key_id, substitute
    cdef public Context gateway
    cdef public Endpoint endpoint
    cdef public BodyFacts facts
    cdef public object home, intake, lane, local_task, own, place, session, timer, upload
    cdef public double at, own_s, queued_at, queued_s, routed_at, sent_at, started_at, timeout_s, token_at
    cdef public Group group
    cdef public Hold money
    cdef public list guards
    cdef public tuple shares
    cdef public RequestHead head
    cdef public Meter meter, minute
    cdef public Trace trace
    cdef public Tries tries
    # (Together, so that no room is lost between them: an exchange of more than 496 bytes is allocated at a dearer place.)
    cdef public bint apart, estimated, strip_usage
    cdef public int counted, phase, skip, status, walked

    cpdef make(self, Context gateway, ClientStream client, RequestHead head, Endpoint endpoint, bytes request_id)
    @cython.locals(found=cython.int)
    cpdef move(self, int event)
    cpdef route(self)
    cpdef resume(self)
    cpdef wait_over(self)
    cpdef take_up(self)
    cpdef client_may_go_on(self)
    cpdef fail(self, object error)
    cpdef end(self, str outcome, bint reusable)
    cpdef call_failed(self, object failure, bint begun, str detail, object error)
    cpdef bint asks_another(self, int status) except -1
    cpdef bint asks_for_less(self) except -1
    cpdef client_broke(self)
    @cython.locals(
        gateway=Context, stats=Stats, budget=cython.longlong, held=cython.longlong, more=cython.longlong, most=cython.longlong, alone=cython.longlong
    )
    cpdef hold(self, long long size)
    @cython.locals(left=cython.longlong)
    cpdef let_go(self, long long size)
    cpdef let_body_go(self)

@cython.locals(facts=BodyFacts)
cpdef str model_of(ExchangeState exchange)
