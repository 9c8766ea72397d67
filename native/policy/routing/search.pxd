cimport cython

from fastgw.upstream.pool cimport Pool
from fastgw.upstream.target cimport Engine

@cython.locals(count=cython.Py_ssize_t, resort=cython.Py_ssize_t, step=cython.Py_ssize_t, at=cython.Py_ssize_t, pool=Pool, resort_ill=bint)
cpdef Py_ssize_t search(tuple pools, Py_ssize_t start, tuple tried) except -2
@cython.locals(fit=list, well=list)
cpdef list those(tuple pools, tuple tried)
@cython.locals(fit=list)
cpdef Pool draw(tuple pools, tuple tried, object chance)
@cython.locals(first=Engine, second=Engine, less=cython.longlong, more=cython.longlong)
cpdef bint lighter(Pool one, Pool other) except -1
