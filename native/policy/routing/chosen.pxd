cimport cython

from fastgw.accel.lookup cimport first_in
from fastgw.exchange.context cimport Strategy
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group


cdef class Chosen(Strategy):
    cdef Strategy _usual
    cdef tuple _names
    cdef dict _choices

    cpdef Pool pick(self, Group group, tuple tried, object exchange)
    @cython.locals(asked=bytes, strategy=Strategy)
    cpdef Strategy chosen(self, object exchange)
