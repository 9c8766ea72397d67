cpdef bytes digest(bytes token)
