cimport cython

from fastgw.accel.bodies cimport BodyFacts
from fastgw.accel.heads cimport RequestHead, ResponseHead
from fastgw.accel.sse cimport SseScanner
from fastgw.exchange.call cimport Call
from fastgw.exchange.context cimport Context, Judgement
from fastgw.exchange.figures cimport answers_of, dialect_of, read_whole
from fastgw.exchange.relay cimport Relay
from fastgw.exchange.state cimport ExchangeState
from fastgw.exchange.tunnel cimport Tunnel
from fastgw.net.client cimport ClientStream
from fastgw.net.clock cimport monotonic
from fastgw.net.upstream cimport UpstreamStream
from fastgw.protocol.body cimport Source as BodySource
from fastgw.protocol.start cimport RequestStart
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.target cimport Engine

cdef int BROKEN, DEAD, END, IS_ANSWERED, MORE, NO_BODY, QUEUED, RELAYING, SENDS, SPENT, TUNNEL, UNTOLD
cdef long long MOST_WEIGHED, NO_LIMIT
cdef double CLOSING_S
cdef Py_ssize_t APART_BYTES

@cython.locals(head=RequestHead, known=Judgement, start=RequestStart, base=bytes)
cpdef RequestStart request_start(ExchangeState exchange, Engine engine)
cpdef bytes _target(ExchangeState exchange, Engine engine)
@cython.locals(forward=bytes, head=RequestHead, own=dict)
cpdef bytes _fields(ExchangeState exchange)

cpdef bytes rewritten(bytes body)
@cython.locals(made=Attempt)
cpdef Attempt attempt_for(ExchangeState exchange, Pool pool, bint probe)

cdef class Attempt(Call):
    cdef ExchangeState _exchange
    cdef Tunnel _tunnel

    @cython.locals(exchange=ExchangeState, facts=BodyFacts, limit=cython.longlong, usual=cython.longlong)
    cpdef weigh(self)
    @cython.locals(exchange=ExchangeState, stream=UpstreamStream, engine=Engine, start=RequestStart, gateway=Context, body=bytes, lead=bytes, skip=Py_ssize_t, length=cython.longlong)
    cpdef send(self, double now)
    @cython.locals(exchange=ExchangeState)
    cpdef on_head(self, ResponseHead head, BodySource source, bytes rest)
    @cython.locals(exchange=ExchangeState, status=cython.int, length=cython.longlong, client=ClientStream, extra=bytes, now=cython.double, told=cython.bint)
    cpdef answered(self, ResponseHead head, BodySource source, bytes rest)
    @cython.locals(sse=SseScanner, relay=Relay, stream=UpstreamStream, verdict=cython.int)
    cpdef _start_relay(self, ExchangeState exchange, ResponseHead head, BodySource source, bytes extra, bytes rest)
    @cython.locals(
        exchange=ExchangeState, stream=UpstreamStream, relay=Relay, sse=SseScanner, events=cython.longlong, verdict=cython.int,
        written=cython.int, now=cython.double,
    )
    cpdef on_data(self, bytes data)
    @cython.locals(exchange=ExchangeState, stream=UpstreamStream, relay=Relay, closing=cython.bint)
    cpdef client_drained(self)
    @cython.locals(exchange=ExchangeState, failed=cython.bint)
    cpdef _relayed(self, Relay relay)
    cpdef _ended(self, ExchangeState exchange, bint failed, bint reusable)
    @cython.locals(exchange=ExchangeState, stream=UpstreamStream, verdict=cython.int)
    cpdef bint _granted(self, Relay relay) except -1
    cpdef _closes(self, Relay relay, int verdict)
    @cython.locals(exchange=ExchangeState, gateway=Context)
    cpdef _cut_short(self, Relay relay)
