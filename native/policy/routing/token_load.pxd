from fastgw.policy.routing.least_loaded cimport LeastLoaded


cdef class TokenLoad(LeastLoaded):
    pass
