"""Compiled twin of fastgw/accel/tokens.py."""

MOST_TOKENS = 10**12
MOST_CHOICES = 1024
BYTES_PER_TOKEN = 4


cpdef Py_ssize_t estimate(Py_ssize_t nbytes) noexcept:
    """The estimate for ``nbytes`` bytes of prompt, rounded up; 0 for nothing."""
    # (Rounded up without a sum that the largest numbers have no room for.)
    return (nbytes >> 2) + ((nbytes & 3) != 0) if nbytes > 0 else 0
