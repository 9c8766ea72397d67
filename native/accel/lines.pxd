cpdef bytes serial_id(bytes prefix, long long number)
cpdef bytes chunk(bytes payload)
cpdef bytes request_start(bytes line, bytes block, bytes trace, bytes fields, bytes request_id, long long length)
cpdef bytes plain_answer(bytes status_line, bytes forward, bytes request_id, bytes extra, bytes body)
cpdef bytes limit_lines(bytes before, bytes unit, long long limit, long long left, long long reset_us)
cpdef bytes budget_lines(bytes before, bytes fixed, long long percent, long long left)
cpdef bytes trace_lines(bytes trace_id, bytes span_id, bint sampled, bytes state)
cpdef append(bytearray to, bytes line)
cpdef bytes duration(long long us)
cpdef long long microseconds(double seconds) except? -1
cpdef bytes access_line(
    bytes stamp, int milli, bytes request_id, bytes common, long long bytes_in, long long bytes_out,
    double duration_s, double ttft_s, long long prompt_tokens, long long completion_tokens, long long cached_tokens,
    long long reasoning_tokens, bytes trace_id, bytes end,
)
