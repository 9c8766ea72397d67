cimport cython

from fastgw.net.client cimport Connection, Sink
from fastgw.net.client cimport ConnLimits as Figures
from fastgw.net.clock cimport monotonic
from fastgw.net.h2_arrival cimport H2Arrival
from fastgw.net.h2_client cimport H2ClientStream
from fastgw.stats cimport Stats

cdef long MOST_STREAM
cdef int GONE_ON, NO_ROOM, STUCK
cdef Py_ssize_t MOST_TURN_BYTES, MOST_UNTAKEN_BYTES, LINGER_BYTES, WRITE_PROGRESS_BYTES
cdef double LINGER_S, NEVER
cdef object CLOSED, GREETING, LEAVING, OPEN

@cython.final
cdef class H2Connection(Connection):
    cdef public H2ClientLink link
    cdef public str peer_ip

    cpdef close(self, bint reset=*)

# (Not final: what it has from its base is declared again, for the types of its locals.)
cdef class H2ClientLink(H2Arrival):
    cdef public H2Connection connection
    cdef public Stats stats
    cdef bytes _preface
    cdef bint _first
    cdef object _ready, _parting
    cdef Py_ssize_t _drained_bytes, _in_kernel
    cdef double _moved_at

    @cython.locals(out=list, left=cython.Py_ssize_t, stream=H2ClientStream, before=cython.Py_ssize_t, state=cython.int)
    cpdef flushing(self)
    @cython.locals(number=cython.long, room=cython.longlong, rest=cython.longlong)
    cpdef spare(self, H2ClientStream stream)
    cpdef part(self, H2ClientStream stream)
    @cython.locals(stream=H2ClientStream)
    cdef _parted(self, long ping)
    @cython.locals(stream=H2ClientStream)
    cpdef on_window(self, long number, long long more)
    cdef _pump(self, H2ClientStream stream)
    @cython.locals(limits=Figures, sink=Sink)
    cdef _look_at(self, H2ClientStream stream, double now)
