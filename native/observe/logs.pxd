cimport cython

from fastgw.accel.lines cimport access_line, append, microseconds
from fastgw.exchange.call cimport Call
from fastgw.exchange.context cimport Judgement
from fastgw.exchange.record cimport AccessLog, streamed
from fastgw.exchange.state cimport ExchangeState, model_of
from fastgw.net.client cimport ClientStream
from fastgw.net.clock cimport monotonic
from fastgw.stats cimport Stats

cdef Py_ssize_t _flush_bytes

@cython.final
cdef class AccessJson:
    cdef public dict _common
    cdef double _offset
    cdef long long _second
    cdef bytes _stamp

    cpdef set_clock(self)
    cpdef bytes _learn(self, tuple who)
    @cython.locals(
        call=Call, client=ClientStream, known=Judgement, model=str, more=cython.bint, stream=cython.bint, second=cython.longlong,
        at=cython.double, started=cython.double,
    )
    cpdef bytes of(self, ExchangeState exchange, str outcome, double now)

cdef class LogWriter(AccessLog):
    cdef int _fd
    cdef object _flood, _level, _loop, _timer, _thread
    cdef public object _batches
    cdef bint _json
    cdef AccessJson _access
    cdef Stats _stats
    cdef public bytearray _pending
    cdef Py_ssize_t _lines
    cdef dict _also
    cdef int _turns

    cpdef _add(self, bytes line)
    cpdef _keep(self, bytes line)
