cpdef double monotonic() noexcept
cpdef long long micros(double seconds) noexcept
