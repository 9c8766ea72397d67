cimport cython

from fastgw.net.clock cimport monotonic
from fastgw.accel.lines cimport plain_answer
from fastgw.accel.heads cimport RequestHead, ResponseHead
from fastgw.accel.usage cimport seconds_in, usage_in
from fastgw.exchange.relay cimport Relay
from fastgw.exchange.tunnel cimport Tunnelling
from fastgw.net.upstream_conn cimport UpstreamConn

cdef int BROKEN, DEAD, END, MORE, QUEUED, SPENT

cdef double CLOSING_S

cdef long long NO_LIMIT

cdef object LENGTH, NONE, RELAYING, TUNNEL

cdef class Answering(Tunnelling):
    @cython.locals(length=cython.longlong)
    cpdef on_response_head(self, ResponseHead head, bytes rest)
    cpdef _start_relay(self, ResponseHead head, object framing, bytes lines, bytes rest)
    cpdef bytes response_lines(self, ResponseHead head, double now, bint close=*)
    cpdef bint _granted(self, Relay relay) except -1
    cpdef _closes(self, Relay relay, int verdict)
    cpdef _cut_short(self, Relay relay)
    cpdef _heard(self, long long seconds)
    cpdef _relayed(self)
