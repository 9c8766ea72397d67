cpdef bytes unmasked(bytes data, Py_ssize_t start, Py_ssize_t stop, bytes key, long long phase)
cpdef bytes framed(int first, bytes data, Py_ssize_t start, Py_ssize_t stop, bytes key)
