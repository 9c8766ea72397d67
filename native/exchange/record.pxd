cdef class AccessLog:
    cpdef ended(self, object exchange, str outcome, double now)
    cpdef append(self, object record)

cdef class Records(AccessLog):
    cdef object _sink
