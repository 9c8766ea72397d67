cdef class Stats:
    cdef public long long access_dropped, bytes_down, cancelled, connections_open, connections_refused, connections_total
    cdef public long long dials_total, events_total, exchanges_open, exchanges_total, failovers_total, refused_total
    cdef public long long replays_total, stalled, truncations_total, upstream_open
