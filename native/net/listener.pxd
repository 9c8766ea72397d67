cimport cython

from fastgw.net.descriptors cimport accept
from fastgw.net.poller cimport Polled, Poller
from fastgw.stats cimport Stats

cdef int ACCEPT_BATCH, READ

@cython.final
cdef class _Door(Polled):
    cdef Listener _listener
    cdef int batch
    cdef long long filled_in
    cdef public object sock

@cython.final
cdef class Listener:
    cdef object _accepted, _exempt, _loop, _paused, _refusal, _scheme, _shortage
    cdef dict _also
    cdef list _doors
    cdef Py_ssize_t _max, _max_per_ip
    cdef dict _lent, _per_ip
    cdef Poller _poller
    cdef Stats _stats

    @cython.locals(fd=cython.int, ip=str, found=tuple, turn=cython.longlong)
    cdef accept(self, _Door door)
    @cython.locals(count=cython.Py_ssize_t, key=str)
    cpdef bint _admit(self, str ip) except -1
    cdef _refuse(self, int fd, str ip)
