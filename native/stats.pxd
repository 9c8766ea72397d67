cdef class Stats:
    cdef public long long access_dropped, auth_failures, body_bytes_open, bytes_down, cancelled, connections_open, connections_refused
    cdef public long long connections_total, dials_total, events_total, exchanges_open, exchanges_total, failovers_total
    cdef public long long limited_concurrency, limited_ip, limited_memory, limited_queue, limited_requests, limited_tokens, merged_calls
    cdef public long long merged_requests, quarantined, queue_timeouts, queue_waiting_open, quota_cut, quota_refused
    cdef public long long refused_total, reloads_failed, reloads_ok, replays_total, retries_refused, retries_total, shortages, stalled
    cdef public long long store_failures
    cdef public long long tokens_cached, tokens_estimated, tokens_generated, tokens_prompted, tokens_reasoning, truncations_total, upstream_open
