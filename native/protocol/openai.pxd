cimport cython

# BodyFacts stays a name of the module's own as well: other modules import it from there.
from fastgw.accel.bodies cimport BodyFacts as Facts
from fastgw.accel.bodies cimport outline, read, span_of, with_member

cpdef Facts scan_body(bytes body, int max_depth=*, Py_ssize_t max_members=*, int bytes_per_token=*)
cpdef Facts scan_completely(bytes body, int max_depth, Py_ssize_t max_members=*)
cdef Facts _judged(found, int max_depth, Py_ssize_t max_members)
cpdef bytes with_usage(bytes body, Facts facts)
cpdef bytes with_model(bytes body, Facts facts, str new)
