# Its hooks are plain methods here too: they are called as they were kept, bound, and a policy's pxd types its own.
cdef class Filter:
    pass
