from fastgw.accel.histograms cimport Histogram

cdef class Tally:
    cpdef ended(self, object exchange, str outcome, double now)
    cpdef used(self, object exchange)
    cpdef spent(self, object exchange, long long cost)
    cpdef Histogram gaps(self, object exchange)
    cpdef failed(self, str how)
