cpdef bint valid_request_id(bytes value) except -1
