cpdef int answer(str profile, object error, object exchange, bytes extra) except -1
cpdef bytes _lines(object kind, object error, bint keyed)
cpdef bytes error_event(str profile, str name, object exchange)
cpdef bytes final_event(str profile, str name, object exchange, long long tokens)
