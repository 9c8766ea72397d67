cimport cython

from fastgw.protocol.body cimport ChunkedSource

@cython.final
cdef class RequestChunks(ChunkedSource):
    cdef Py_ssize_t _judged
