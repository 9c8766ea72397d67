cimport cython

from fastgw.accel.heads cimport RequestHead
from fastgw.exchange.context cimport Judgement
from fastgw.exchange.state cimport ExchangeState
from fastgw.protocol.start cimport RequestStart
from fastgw.upstream.target cimport Engine

@cython.locals(head=RequestHead, known=Judgement, start=RequestStart, base=bytes)
cpdef RequestStart request_start(ExchangeState exchange, Engine engine)
cpdef bytes _target(ExchangeState exchange, Engine engine)
@cython.locals(forward=bytes, head=RequestHead, own=dict)
cpdef bytes _fields(ExchangeState exchange)

cpdef bytes rewritten(bytes body)
