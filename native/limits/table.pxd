cimport cython

from fastgw.limits.addresses cimport Addresses
from fastgw.limits.shared cimport Pages, Record

cdef Py_ssize_t _copy, _head, _index, _meter, _record, _slot, _tail, _window
cdef int _LEDGER, _PURSE

cdef class Table:
    cdef tuple _fds
    cdef bytes _key
    cdef Pages _pages
    cdef Addresses _addresses
    cdef Py_ssize_t _first, _places, _stride
    cdef unsigned long long _wake
    cdef public Py_ssize_t worker, workers
    cdef public long long crowded_total, now_us, today

    @cython.locals(at=Py_ssize_t)
    cdef _learn(self, Pages pages)
    @cython.locals(words=cython.p_longlong, found=cython.longlong, _=Py_ssize_t)
    cdef long _sum(self, Py_ssize_t at, Py_ssize_t what) except? -1
    @cython.locals(words=cython.p_longlong, number=Py_ssize_t, free=Py_ssize_t, place=Py_ssize_t, entry=Py_ssize_t, at=Py_ssize_t,
                   word=Py_ssize_t, fresh=bint)
    cdef _find(self, Record record)
    cdef _at(self, Record record, Py_ssize_t entry, Py_ssize_t place)
    @cython.locals(place=Py_ssize_t)
    cdef Py_ssize_t _spare(self, Py_ssize_t number) except? -1
    @cython.locals(words=cython.p_longlong, copy=Py_ssize_t, slot=Py_ssize_t, what=Py_ssize_t, meter=Py_ssize_t, tail=Py_ssize_t,
                   debt=cython.longlong)
    cdef bint _idle(self, Py_ssize_t at) except -1
    @cython.locals(words=cython.p_longlong, worker=Py_ssize_t)
    cdef _freed(self, Py_ssize_t slots)
    cdef _ring(self)
