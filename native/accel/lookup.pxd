cpdef bytes first_in(bytes block, tuple names)
