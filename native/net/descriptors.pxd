cpdef tuple accept(object listening)
cpdef close(int fd)
cpdef finish(int fd)
cpdef abort(int fd)
cpdef int dial_error(int fd) except -2
