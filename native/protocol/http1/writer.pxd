from fastgw.accel.heads cimport ResponseHead
from fastgw.accel.lines cimport chunk, request_start
from fastgw.protocol.start cimport RequestStart

cdef long long _date_of
cdef bytes _date

cpdef bytes http_date(double epoch_s)
cpdef bytes _imf_fixdate(long long second)
cpdef bytes request_head(RequestStart start, bytes own, bytes trace, bytes request_id, long long length)
cpdef bytes response_head(
    ResponseHead head, bytes framing, bytes request_id, bytes extra, bytes date, bytes connection, bytes body=*
)
cpdef bytes length_line(long long length)
cpdef bytes upgrade_head(ResponseHead head, bytes request_id)
cpdef bytes frame(bytes payload, bint last)
