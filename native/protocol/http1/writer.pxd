cdef long long _date_of
cdef bytes _date

cpdef bytes http_date(double epoch_s)
cpdef bytes _imf_fixdate(long long second)
