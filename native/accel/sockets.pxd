cpdef bytes recv(int fd, Py_ssize_t max_bytes)
cdef Py_ssize_t receive(int fd, char *into, Py_ssize_t size) except -1
cpdef Py_ssize_t send(int fd, bytes data) except -1
cpdef Py_ssize_t send_last(int fd, bytes data) except -1
cpdef Py_ssize_t send_from(int fd, bytes data, Py_ssize_t start) except -1
cpdef Py_ssize_t send_both(int fd, bytes first, bytes second, Py_ssize_t start=*) except -1
cpdef bytes keep(bytes data, Py_ssize_t start=*)
cpdef bint unread(int fd) noexcept
cpdef Py_ssize_t unacknowledged(int fd) noexcept
