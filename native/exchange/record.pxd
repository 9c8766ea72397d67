from fastgw.exchange.state cimport ExchangeState

cdef class AccessLog:
    cpdef ended(self, ExchangeState exchange, str outcome, double now)
    cpdef append(self, object record)

cdef class Records(AccessLog):
    cdef object _sink
