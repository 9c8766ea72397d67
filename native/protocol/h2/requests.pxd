cimport cython

from fastgw.accel.frames cimport cut
from fastgw.accel.heads cimport RequestHead, scan_request
from fastgw.accel.ids cimport valid_request_id
from fastgw.protocol.h2.heads cimport Field, known
from fastgw.protocol.h2.hpack cimport Decoder, string_at, value_at

@cython.final
cdef class RequestBlocks:
    cdef Py_ssize_t _max_bytes, _max_fields, _at
    cdef Decoder _decoder
    cdef bytes _prefix, _suffix, _before_id, _behind_id
    cdef bint _ended
    cdef long long _changes
    cdef dict _secrets
    cdef public RequestHead last
    cdef public object known

    @cython.locals(head=RequestHead, decoder=Decoder, changes=cython.longlong, at=cython.Py_ssize_t)
    cpdef RequestHead read(self, bytes block, bint ended)
    @cython.locals(parts=list, found=list, part=bytes, one=Field, at=cython.Py_ssize_t, decoder=Decoder)
    cdef list _fields(self, bytes block)
    @cython.locals(digits=bytes, end=cython.Py_ssize_t, length=cython.longlong)
    cdef bint _again(self, RequestHead head, bytes block) except -1
    @cython.locals(prefix=bytes, said=bytes, at=cython.Py_ssize_t, end=cython.Py_ssize_t)
    cdef _note_id(self, RequestHead head)
    @cython.locals(before=bytes, at=cython.Py_ssize_t, size=cython.Py_ssize_t, end=cython.Py_ssize_t, value=bytes, own=dict)
    cdef Py_ssize_t _but_its_id(self, RequestHead head, bytes block) except -1
    @cython.locals(judged=RequestHead)
    cdef RequestHead _judged(self, list found, bint ended)
