cimport cython

from fastgw.accel.heads cimport ResponseHead
from fastgw.exchange.context cimport Context
from fastgw.exchange.relay cimport Relay
from fastgw.limits.breaker cimport Breaker
from fastgw.net.clock cimport monotonic
from fastgw.net.upstream cimport Carrier, UpstreamStream
from fastgw.protocol.body cimport Source
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.target cimport Engine
from fastgw.upstream.watch cimport Watch

cdef int CLOSED

cdef class Call(Carrier):
    cdef public Context core
    cdef public bint ended, faulty, light, probe, reused, settled
    cdef public double first_byte_at, left_at, sent_at
    cdef public ResponseHead head
    cdef public Pool pool
    cdef public Relay relay
    cdef public Source source
    cdef public bytes rest
    cdef public object remainder
    cdef public UpstreamStream stream
    cdef public Watch watch
    cdef public long long makes, reads, trial

    cpdef make(self, Context core, Pool pool, bint probe)
    @cython.locals(pool=Pool, engine=Engine, stream=UpstreamStream, connected=cython.bint)
    cpdef bint open(self, double now, int fresh) except -1
    @cython.locals(breaker=Breaker, open_before=cython.bint)
    cpdef succeeded(self)
    @cython.locals(engine=Engine, counts=cython.bint)
    cpdef failed(self, str how, str model=*)
    cdef bint _tries(self) except -1
    cpdef released(self)
    cpdef _conclude(self, bint well)
    @cython.locals(stream=UpstreamStream, engine=Engine)
    cpdef leave(self)
    @cython.locals(source=Source)
    cpdef bint works(self) except -1
    cpdef str caller(self)
    cpdef tuple places(self)
    cpdef object goes_on(self)
    @cython.locals(stream=UpstreamStream, pool=Pool, engine=Engine, head=ResponseHead, faulty=cython.bint)
    cpdef complete(self, double now, bint well, bint reusable, double token_at)
    cpdef weigh(self)
    @cython.locals(watch=Watch)
    cpdef began(self, double now)
    @cython.locals(watch=Watch)
    cdef _took(self, double seconds, double now)
    cdef bint _did(self) except -1
    @cython.locals(watch=Watch)
    cpdef unwatch(self)
    cpdef part(self)
    cpdef answered(self, ResponseHead head, Source source, bytes rest)
    cpdef cut(self, str kind, str detail, bint engine_fault)
    cpdef client_drained(self)
    cpdef from_client(self, bytes data)
    cpdef client_ended(self)
    cpdef _room(self)
