"""Compiled twin of fastgw/net/clock.py: the same clock without a float object."""

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    int CLOCK_MONOTONIC


cdef double _held = -1.0  # what a test has set it to; below 0 = it runs


cpdef double monotonic() noexcept:
    """Seconds on the monotonic clock."""
    cdef timespec now
    if _held >= 0.0:
        return _held
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


def hold(double seconds):
    """From now on it is ``seconds``, for everybody in this process; below 0 it runs again. For tests."""
    global _held
    _held = seconds


cpdef long long micros(double seconds) noexcept:
    """A time of that clock in whole microseconds, as meters count."""
    return <long long>(seconds * 1e6)
