from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group

cdef class Ordered:
    cpdef Pool pick(self, Group group, tuple tried)
