cdef class Stats:
    cdef public long long access_dropped, auth_failures, body_bytes_open, bytes_down, cancelled, connections_open
    cdef public long long fallbacks_total, mirrored_total, mirrors_open, mirrors_skipped
    cdef public long long connections_refused, connections_total, dials_total, events_total, exchanges_open, exchanges_total
    cdef public long long failovers_total, handshakes_failed, handshakes_resumed, handshakes_total, limited_concurrency
    cdef public long long limited_ip, limited_memory, limited_model, limited_queue, limited_tenant, limited_requests, limited_tokens, merged_calls
    cdef public long long prefix_hit_tokens, prefix_hits, prefix_moved, prefix_tokens
    cdef public long long merged_requests, quarantined, queue_timeouts, queue_waiting_open, quota_cut, quota_refused
    cdef public long long budget_cut, budget_refused, budgets_spent, budgets_warned
    cdef public long long refused_total, reloads_failed, reloads_ok, replays_total, retries_refused, retries_total, shortages, stalled
    cdef public long long store_failures, tokens_cached, tokens_estimated, tokens_generated, tokens_prompted, tokens_reasoning
    cdef public long long traces_dropped, traces_exported, traces_failed, truncations_total, upstream_open
    cdef public long long dials_warm, reused_total, stale_avoided, webhooks_failed, webhooks_lost, webhooks_taken
