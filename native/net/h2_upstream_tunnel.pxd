cimport cython

from fastgw.accel.heads cimport ResponseHead
from fastgw.net.h2_stream cimport H2UpstreamStream, Link
from fastgw.net.upstream cimport Carrier
from fastgw.protocol.h2.writer cimport request_block
from fastgw.protocol.start cimport RequestStart

# (Not final: what it has from its base is declared again.)
cdef class H2UpstreamTunnel(H2UpstreamStream):
    cdef bytes _key
    cdef public bint passes

    cpdef set_up(self)
    @cython.locals(link=Link)
    cpdef send(self, RequestStart start, bytes trace, bytes request_id, long long length, bytes lead, bytes body, Py_ssize_t skip,
               double due)
    cdef _gives_up(self, Link link, object error)
    cdef _begin(self, Carrier carrier, ResponseHead head, bytes data)
    cdef _tell(self, Carrier carrier)
    @cython.locals(data=bytes)
    cdef _pass(self, Carrier carrier)
    cpdef tunnel(self)
    @cython.locals(link=Link)
    cpdef cancel(self)
