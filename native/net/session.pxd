from fastgw.accel.heads cimport ResponseHead

cdef class Session:
    cdef public bint upgrade

    cpdef on_body(self, bytes data, bint last)
    cpdef on_client_gone(self, str how)
    cpdef on_client_drained(self)
    cpdef on_client_stalled(self)
    cpdef on_request_error(self, object error)
    cpdef on_total_timeout(self)
    cpdef on_tunnel_data(self, bytes data)
    cpdef on_connected(self, object conn)
    cpdef on_connect_failed(self, str detail, bint timed_out)
    cpdef on_response_head(self, ResponseHead head, bytes rest)
    cpdef on_response_error(self, object error)
    cpdef on_response_data(self, bytes data)
    cpdef on_response_eof(self, str how)
    cpdef on_upstream_drained(self)
    cpdef on_upstream_timeout(self)
