cimport cython

from fastgw.accel.heads cimport HeadMemory, Kept
from fastgw.accel.landing cimport Landing
from fastgw.accel.sockets cimport keep
from fastgw.net.client cimport Service
from fastgw.net.clock cimport monotonic
from fastgw.net.h1_arrival cimport Arrival
from fastgw.net.h1_client cimport H1ClientStream
from fastgw.net.poller cimport Reactor
from fastgw.net.wire cimport Wire
from fastgw.protocol.body cimport LengthSource, Source
from fastgw.protocol.http1.framing cimport RequestChunks
from fastgw.protocol.http1.server cimport RequestReader
from fastgw.stats cimport Stats

cdef Py_ssize_t DISCARD_BYTES, LINGER_BYTES, LINGER_REFUSED_BYTES, PIPELINED_BYTES, RECV_BYTES, SURPLUS_BYTES
cdef double LINGER_S, NEVER, TICK_S
cdef object BODY, BUSY, CLOSED, DISCARD, FLUSH, HEAD, LINGER, OPENING, TUNNEL

@cython.final
cdef class H1Connection(Arrival):
    cdef public bint _advancing
    cdef HeadMemory _heads, _memory
    cdef object _recalled
    cdef public Py_ssize_t read_bytes
    cdef public RequestReader reader
    cdef public Service service
    cdef public Stats stats

    @cython.locals(length=cython.longlong, deadline=cython.double, body=bytes, landing=Landing, source=Source)
    cdef _take_head(self, bytes data)
    @cython.locals(kept=Kept)
    cdef _recall(self, H1ClientStream stream, bytes data)
    cdef _refuse(self, H1ClientStream stream, object error, double now)
    cdef _take_early(self, bytes data)
    cdef _take_discarded(self, bytes data)
    cdef _gone(self, str how)
    cdef _take_turn(self, bytes data)
    cdef _next_turn(self)
    cpdef _advance(self)
    @cython.locals(deadline=cython.double, slot=cython.long)
    cdef _rest(self)
    # (Not its base's: a default would make them two kinds of call.)
    @cython.locals(kept=Kept)
    cpdef close(self, bint reset=*)
