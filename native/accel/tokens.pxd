cpdef Py_ssize_t estimate(Py_ssize_t nbytes) noexcept
