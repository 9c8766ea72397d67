cimport cython

from fastgw.accel.heads cimport RequestHead
from fastgw.exchange.endpoints cimport Endpoint
from fastgw.limits.account cimport Account, Accounts
from fastgw.limits.budget cimport RetryBudget
from fastgw.limits.meter cimport Meter
from fastgw.exchange.plan cimport Rules
from fastgw.exchange.tally cimport Tally
from fastgw.exchange.tracing cimport Tracing
from fastgw.net.client cimport ClientStream, Service
from fastgw.net.poller cimport Reactor
from fastgw.protocol.start cimport RequestStart
from fastgw.stats cimport Stats
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group, UpstreamTable
from fastgw.upstream.target cimport Engine

cdef double NEVER

cdef class Strategy:
    cdef public str name

    cpdef Pool pick(self, Group group, tuple tried, object exchange)
    cpdef Strategy chosen(self, object exchange)
    cpdef tuple able(self, Group group, object exchange)
    @cython.locals(pool=Pool)
    cpdef bint full(self, Group group, tuple tried, object exchange) except -1
    cpdef str unmet(self, Group group, object exchange)

@cython.final
cdef class Judgement:
    cdef public str client_ip, kept, key_id, peer_ip, told_engine, told_model, told_outcome
    cdef public Account account
    cdef public Endpoint endpoint
    cdef public Meter meter
    cdef public double ends_at, timeout_s
    cdef public bytes told
    cdef public int told_status
    cdef public bint told_streamed, traceless, trusted
    cdef public object told_spoken
    cdef public bytes base, extra_head
    cdef public RequestStart start
    cdef public RequestHead head
    cdef public long long limit, version

    cpdef Judgement of(self, RequestHead head)

cdef class Context(Service):
    cdef public object config, hops, log
    cdef public Strategy strategy
    cdef public Stats stats
    cdef public Tally tally
    cdef public UpstreamTable table
    cdef public Accounts accounts
    cdef public RetryBudget budget
    cdef public object merger, responses, retry_statuses, serving
    cdef public Tracing tracer
    cdef public long long default_cost, default_max, today
    cdef public int bytes_per_token
    cdef public bint allow_kv_transfer, retries_at_all
    cdef public bint server_timing, shows, splices
    cdef public Reactor reactor
    cdef public Rules rules
    cdef public long long max_body_bytes, max_json_depth, max_json_members, memory_budget, most_held
    cdef public double first_byte_timeout_s, between_bytes_timeout_s, request_timeout_s, retry_after_s, max_request_timeout_s
    cdef public dict shares
    cdef public tuple doubted, trusted, on_arrival, on_head, on_origin, on_request, on_body, on_route, on_finish, rewriters, walk
    cdef public tuple on_allowance, on_attempt, on_crowded, on_data, on_full, on_lost, on_refused, on_response, on_room, on_said, on_turn

    cpdef double time_limit(self, double asked, double limit) except -1
    cpdef finished(self, object exchange, str outcome, double now)
    cpdef bytes forwarded_lines(self, ClientStream client, RequestHead head)
    cpdef int refuse_with(self, object error, object exchange, bytes extra) except -1
    cpdef bytes shown(self, object exchange, bytes text)
    cpdef long long share_of(self, object exchange) except -1
    cpdef share(self, object exchange, long long more)
    cpdef object _holder(self, object exchange)
    cpdef take_up_later(self, object exchange)
    cpdef later(self, object exchange, double seconds)
    cpdef bytes error_event(self, str name, object exchange)
    cpdef bytes final_event(self, str name, object exchange, long long tokens)
    cpdef bytes close_frame(self, str name)
    cpdef dial_failed(self, Pool pool, str detail)
    cpdef breaker_moved(self, Pool pool)
    cpdef let_finish(self, object call)
