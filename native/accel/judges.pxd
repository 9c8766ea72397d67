# The compiled twin of fastgw/accel/judges.py.

cpdef bint broken(object data, Py_ssize_t start, Py_ssize_t end) except -1
cpdef judge_request(bytes head, Py_ssize_t max_fields)
cpdef judge_response(bytes head, Py_ssize_t max_fields)
cpdef Py_ssize_t head_end(object data, Py_ssize_t start, Py_ssize_t end) except -2
