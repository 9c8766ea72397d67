cpdef bytes unpacked(bytes value)
