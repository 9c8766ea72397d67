cimport cython

from fastgw.net.clock cimport monotonic
from fastgw.exchange.answering cimport Answering
from fastgw.exchange.relay cimport Relay
from fastgw.protocol.openai cimport scan_body
from fastgw.accel.sockets cimport keep
from fastgw.accel.heads cimport RequestHead, ResponseHead
from fastgw.net.upstream_conn cimport UpstreamConn
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.target cimport Engine

cdef object CLIENT_TUNNEL, DONE, JSON, LOCAL, MERGING, QUEUED, RECEIVING, RELAYING, WAITING

@cython.final
cdef class Exchange(Answering):
    cpdef _dispatch(self)
    cpdef route(self)
    cpdef _unpack(self, long long room)
    cpdef _arrived(self, bytes data, bint last)
    cpdef _in_turn(self)
    cpdef take_up(self)
    cpdef _read_on(self, object upload, tuple unread)
    cpdef answer(self, int status, bytes data)
    cpdef _cancel(self)
    cpdef _leaves_work(self)
    cpdef abandon(self, str kind, str detail)
