cimport cython

from fastgw.net.clock cimport monotonic

@cython.final
cdef class Group:
    cdef public Py_ssize_t cursor
    cdef public tuple pools
    cdef public dict lanes, notes
    cdef public object lane
    cdef public bint named, tabled
    cdef public str part

@cython.final
cdef class UpstreamTable:
    cdef public dict _by_model, _groups, models, routes
    cdef public object absent, anywhere, deployed
    cdef public Group _open, _nameless, everyone
    cdef public tuple pools
    cdef public long long version

    cpdef Group known(self, str model)
    @cython.locals(found=Group)
    cpdef Group group(self, str model)
