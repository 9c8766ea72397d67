"""Compiled twin of fastgw/net/clock.py: the same clock without a float object."""

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    int CLOCK_MONOTONIC


cpdef double monotonic() noexcept:
    """Seconds on the monotonic clock."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


cpdef long long micros(double seconds) noexcept:
    """A time of that clock in whole microseconds, as meters count."""
    return <long long>(seconds * 1e6)
