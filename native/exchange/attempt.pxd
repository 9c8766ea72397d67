cimport cython

from fastgw.accel.bodies cimport BodyFacts
from fastgw.accel.heads cimport ResponseHead
from fastgw.accel.sse cimport SseScanner
from fastgw.exchange.call cimport Call
from fastgw.exchange.context cimport Context
from fastgw.exchange.figures cimport answers_of, read_whole, relay_for
from fastgw.exchange.opening cimport Opening, is_held
from fastgw.exchange.record cimport streamed
from fastgw.exchange.relay cimport Relay
from fastgw.exchange.request cimport request_start, rewritten
from fastgw.exchange.state cimport ExchangeState
from fastgw.exchange.tunnel cimport Tunnel
from fastgw.limits.scope cimport places
from fastgw.net.client cimport ClientStream
from fastgw.net.clock cimport monotonic
from fastgw.net.upstream cimport UpstreamStream
from fastgw.protocol.body cimport Source as BodySource
from fastgw.protocol.start cimport RequestStart
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.target cimport Engine

cdef int BEGINS, BROKEN, DEAD, END, ENDS, IS_ANSWERED, MORE, NO_BODY, QUEUED, REFUSES, RELAYING, SENDS, SPENT, TUNNEL, WAITS
cdef long long MOST_WEIGHED
cdef double CLOSING_S
cdef Py_ssize_t APART_BYTES

@cython.locals(made=Attempt)
cpdef Attempt attempt_for(ExchangeState exchange, Pool pool, bint probe)

cdef class Attempt(Call):
    cdef ExchangeState _exchange
    cdef Opening _opening
    cdef Tunnel _tunnel

    @cython.locals(exchange=ExchangeState, facts=BodyFacts, limit=cython.longlong, usual=cython.longlong)
    cpdef weigh(self)
    @cython.locals(exchange=ExchangeState)
    cpdef bint works(self) except -1
    @cython.locals(exchange=ExchangeState)
    cpdef str caller(self)
    @cython.locals(exchange=ExchangeState)
    cpdef tuple places(self)
    @cython.locals(exchange=ExchangeState, stream=UpstreamStream, engine=Engine, start=RequestStart, trace=bytes, gateway=Context, body=bytes, lead=bytes, skip=Py_ssize_t, length=cython.longlong)
    cpdef send(self, double now)
    @cython.locals(exchange=ExchangeState)
    cpdef on_head(self, ResponseHead head, BodySource source, bytes rest)
    @cython.locals(exchange=ExchangeState, length=cython.longlong, client=ClientStream, stream=UpstreamStream, extra=bytes, now=cython.double, told=cython.bint)
    cpdef answered(self, ResponseHead head, BodySource source, bytes rest)
    @cython.locals(extra=bytes)
    cpdef bytes _accepts(self, ExchangeState exchange, ResponseHead head, double now)
    @cython.locals(exchange=ExchangeState, extra=bytes, now=cython.double)
    cpdef _opens(self, Opening opening, int verdict)
    @cython.locals(sse=SseScanner, relay=Relay, stream=UpstreamStream, verdict=cython.int)
    cpdef _start_relay(self, ExchangeState exchange, ResponseHead head, BodySource source, bytes extra, bytes rest)
    @cython.locals(
        exchange=ExchangeState, stream=UpstreamStream, relay=Relay, sse=SseScanner, events=cython.longlong, verdict=cython.int,
        now=cython.double,
    )
    cpdef on_data(self, bytes data)
    cpdef bint _may_go_on(self, ExchangeState exchange, Relay relay, int verdict) except -1
    @cython.locals(exchange=ExchangeState, stream=UpstreamStream, relay=Relay)
    cpdef client_drained(self)
    @cython.locals(exchange=ExchangeState, failed=cython.bint)
    cpdef _relayed(self, Relay relay)
    cpdef _ended(self, ExchangeState exchange, bytes failure, bint reusable)
    @cython.locals(exchange=ExchangeState, stream=UpstreamStream, verdict=cython.int)
    cpdef bint _granted(self, Relay relay) except -1
    cpdef _closes(self, Relay relay, int verdict)
    @cython.locals(exchange=ExchangeState, gateway=Context)
    cpdef _cut_short(self, Relay relay)
