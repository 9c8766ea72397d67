cimport cython

from fastgw.accel.heads cimport RequestHead, ResponseHead
from fastgw.accel.sockets cimport keep
from fastgw.exchange.gateway cimport GatewayCore
from fastgw.exchange.relay cimport Relay
from fastgw.exchange.tally cimport Tally
from fastgw.net.client cimport ClientStream, Sink
from fastgw.net.clock cimport monotonic
from fastgw.net.upstream cimport Carrier, UpstreamStream
from fastgw.protocol.body cimport Source
from fastgw.protocol.start cimport RequestStart
from fastgw.stats cimport Stats
from fastgw.upstream.pool cimport Pool

cdef int BROKEN, DEAD, END, FRESH, NO_BODY, QUEUED
cdef double NEVER

@cython.final
cdef class Known:
    cdef public RequestHead head
    cdef public RequestStart start

# (Not final: who decides nothing refuses in its own way.)
cdef class Passages(GatewayCore):
    cdef public Pool pool
    cdef public object reset

    @cython.locals(known=Known)
    cpdef open(self, ClientStream client, RequestHead head)
    cdef Known _plain(self, RequestHead head)

@cython.final
cdef class Passage(Sink):
    cdef Pool _pool
    cdef Tally _tally
    cdef object _end
    cdef Stats _stats
    cdef ClientStream _client
    cdef RequestStart _start
    cdef bytes _request_id, _body
    cdef list _pieces
    cdef Call _call
    cdef UpstreamStream _stream
    cdef Relay _relay
    cdef ResponseHead _head
    cdef bint _again, _open, _reused

    @cython.locals(pool=Pool, call=Call, stream=UpstreamStream)
    cdef _ask(self, int fresh)
    @cython.locals(stream=UpstreamStream, body=bytes)
    cpdef send(self)
    @cython.locals(client=ClientStream, length=cython.longlong, relay=Relay, verdict=cython.int)
    cpdef begins(self, ResponseHead head, Source source, bytes rest)
    @cython.locals(relay=Relay)
    cpdef goes_on(self, bytes data)
    @cython.locals(stream=UpstreamStream)
    cdef _went(self, Relay relay, int verdict)
    @cython.locals(relay=Relay, stream=UpstreamStream)
    cpdef ended(self, str how)
    @cython.locals(stream=UpstreamStream)
    cdef _let_go(self)
    @cython.locals(call=Call)
    cdef _over(self)
    @cython.locals(stream=UpstreamStream, head=ResponseHead, pool=Pool)
    cdef _ends(self, bint reusable)
    cdef _break_off(self)
    cdef _reset(self, int code)
    cdef _leave(self)

# (Not final: what it has from its base is declared again, for the types of its locals.)
cdef class Call(Carrier):
    cdef public Passage passage

    @cython.locals(passage=Passage)
    cpdef on_stream(self)
    @cython.locals(passage=Passage)
    cpdef on_head(self, ResponseHead head, Source source, bytes rest)
    @cython.locals(passage=Passage)
    cpdef on_data(self, bytes data)
    @cython.locals(passage=Passage)
    cpdef on_end(self, str how)
