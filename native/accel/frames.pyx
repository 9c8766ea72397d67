# cython: boundscheck=False, wraparound=False, cdivision=True, nonecheck=False
"""Compiled twin of fastgw/accel/frames.py: the same cuts over a pointer, and what is written laid out once."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp, memcpy

from fastgw.accel.sockets cimport keep

HEADER_BYTES = 9
MOST_FRAME_BYTES = 16384
DATA = 0
PADDED = 0x8

cdef enum:
    _HEADER = 9
    _MOST = 16384
    _DATA = 0
    _PADDED = 8


cdef inline void _put_header(unsigned char *to, Py_ssize_t size, int kind, int flags, unsigned int stream) noexcept nogil:
    to[0] = (size >> 16) & 255
    to[1] = (size >> 8) & 255
    to[2] = size & 255
    to[3] = kind
    to[4] = flags
    to[5] = (stream >> 24) & 255
    to[6] = (stream >> 16) & 255
    to[7] = (stream >> 8) & 255
    to[8] = stream & 255


cdef inline Py_ssize_t _prefix(unsigned char *to, Py_ssize_t size) noexcept nogil:
    """The length of a string, in seven bits and more (RFC 7541 §5.1); how many bytes that took."""
    cdef Py_ssize_t count = 1
    if size < 127:
        to[0] = <unsigned char>size
        return 1
    to[0] = 127
    size -= 127
    while size >= 128:
        to[count] = (size & 127) | 128
        count += 1
        size >>= 7
    to[count] = <unsigned char>size
    return count + 1


cpdef bytes header(Py_ssize_t size, int kind, int flags, unsigned int stream):
    """What stands before a payload of ``size`` bytes."""
    cdef bytes made = PyBytes_FromStringAndSize(NULL, _HEADER)
    _put_header(<unsigned char *>PyBytes_AS_STRING(made), size, kind, flags, stream)
    return made


cpdef bytes framed(bytes payload, int kind, int flags, unsigned int stream):
    """A whole frame."""
    cdef bytes made
    cdef Py_ssize_t size
    if payload is None:
        raise TypeError("bytes are needed, not None")
    size = PyBytes_GET_SIZE(payload)
    made = PyBytes_FromStringAndSize(NULL, _HEADER + size)
    _put_header(<unsigned char *>PyBytes_AS_STRING(made), size, kind, flags, stream)
    memcpy(PyBytes_AS_STRING(made) + _HEADER, PyBytes_AS_STRING(payload), size)
    return made


cpdef bytes text(bytes value):
    """A string of a field block as it is (RFC 7541 §5.2)."""
    cdef unsigned char before[12]
    cdef Py_ssize_t size, count
    cdef bytes made
    if value is None:
        raise TypeError("bytes are needed, not None")
    size = PyBytes_GET_SIZE(value)
    count = _prefix(before, size)
    made = PyBytes_FromStringAndSize(NULL, count + size)
    memcpy(PyBytes_AS_STRING(made), before, count)
    memcpy(PyBytes_AS_STRING(made) + count, PyBytes_AS_STRING(value), size)
    return made


cdef inline char *_join(char *to, bytes part) noexcept:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(part)
    memcpy(to, PyBytes_AS_STRING(part), size)
    return to + size


cpdef bytes field_block(bytes first, bytes second, bytes third, bytes fourth, bytes request_id, long long length):
    """A message's field block: four parts of it, the value of the last's field (``x-request-id``), and the ``length`` of its body,
    -1 = nothing is said of one."""
    cdef unsigned char before[12]
    cdef char digits[24]
    cdef Py_ssize_t count, ids, at = 24, tail = 0
    cdef char *to
    cdef bytes made
    if first is None or second is None or third is None or fourth is None or request_id is None:
        raise TypeError("bytes are needed, not None")
    ids = PyBytes_GET_SIZE(request_id)
    count = _prefix(before, ids)
    if length >= 0:
        while True:
            at -= 1
            digits[at] = <char>(48 + length % 10)
            length //= 10
            if not length:
                break
        tail = 3 + 24 - at
    made = PyBytes_FromStringAndSize(
        NULL,
        PyBytes_GET_SIZE(first) + PyBytes_GET_SIZE(second) + PyBytes_GET_SIZE(third) + PyBytes_GET_SIZE(fourth) + count + ids + tail,
    )
    to = _join(_join(_join(_join(PyBytes_AS_STRING(made), first), second), third), fourth)
    memcpy(to, before, count)
    to = _join(to + count, request_id)
    if tail:
        to[0] = 0x0F  # content-length, as a field that no table keeps
        to[1] = 0x0D
        to[2] = <char>(24 - at)
        memcpy(to + 3, digits + at, 24 - at)
    return made


cdef inline Py_ssize_t _skip(const unsigned char *p, Py_ssize_t *at, Py_ssize_t end, int bits) noexcept nogil:
    """The integer at ``at``, which is moved behind it; -1 = it is cut off, or longer than any that is good."""
    cdef Py_ssize_t most = (1 << bits) - 1
    cdef Py_ssize_t value = p[at[0]] & most
    cdef int shift = 0
    cdef unsigned char byte
    at[0] += 1
    if value < most:
        return value
    while shift <= 14:
        if at[0] >= end:
            return -1
        byte = p[at[0]]
        at[0] += 1
        value += <Py_ssize_t>(byte & 127) << shift
        if byte < 128:
            return value
        shift += 7
    return -1


cpdef list cut(bytes block, Py_ssize_t most):
    """A field block in its fields, each as it is written; see the Python twin."""
    cdef const unsigned char *p
    cdef Py_ssize_t at = 0, start, end, which, size
    cdef int first, strings
    cdef list parts = []
    if block is None:
        raise TypeError("bytes are needed, not None")
    p = <const unsigned char *>PyBytes_AS_STRING(block)
    end = PyBytes_GET_SIZE(block)
    while at < end:
        start = at
        first = p[at]
        if first & 0x80:
            which = _skip(p, &at, end, 7)
        elif first & 0xE0 == 0x20:
            return None
        else:
            which = _skip(p, &at, end, 6 if first & 0x40 else 4)
            strings = 1 if which else 2
            while strings:
                if at >= end:
                    return None
                size = _skip(p, &at, end, 7)
                if size < 0:
                    return None
                at += size
                strings -= 1
        if which < 0 or at > end or len(parts) == most:
            return None
        parts.append(PyBytes_FromStringAndSize(PyBytes_AS_STRING(block) + start, at - start))
    return parts


cdef const char *_ID_NAME = b"\x0cx-request-id"


cdef long long _digits(const unsigned char *p, Py_ssize_t size) noexcept nogil:
    """The number that these are, -1 = they are none, or one that is too long."""
    cdef long long value = 0
    cdef Py_ssize_t at
    if size > 18:
        return -1
    for at in range(size):
        if p[at] < 48 or p[at] > 57:
            return -1
        value = value * 10 + p[at] - 48
    return value


cdef bint _visible(const unsigned char *p, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t at
    for at in range(size):
        if p[at] < 0x21 or p[at] > 0x7E:
            return False
    return True


cpdef tuple bare(bytes block):
    """A field block without what each message has of its own; see the Python twin."""
    cdef const unsigned char *p
    cdef Py_ssize_t at = 0, start, end, which, size, more, value, told = 0, left = 0, count = 0
    cdef Py_ssize_t[2] begins
    cdef Py_ssize_t[2] ends
    cdef long long length = -1, number
    cdef int first
    cdef bint with_id = False
    cdef bytes made
    cdef char *to
    if block is None:
        raise TypeError("bytes are needed, not None")
    p = <const unsigned char *>PyBytes_AS_STRING(block)
    end = PyBytes_GET_SIZE(block)
    while at < end:
        start = at
        first = p[at]
        if first & 0x80 or first & 0xE0 == 0x20:
            which = _skip(p, &at, end, 7 if first & 0x80 else 5)
            if which < 0:
                return block, -1
            continue
        which = _skip(p, &at, end, 6 if first & 0x40 else 4)
        if which < 0:
            return block, -1
        if not which:
            if at >= end:
                return block, -1
            size = _skip(p, &at, end, 7)
            if size < 0:
                return block, -1
            at += size
        if at >= end:
            return block, -1
        value = at
        more = _skip(p, &at, end, 7)
        at += more
        if more < 0 or at > end:
            return block, -1
        if not more or p[value] >= 127:
            continue
        if length < 0 and which == 28:
            number = _digits(p + value + 1, more)
            if number < 0:
                continue
            length = number
        elif not with_id and value - start == 14 and not memcmp(p + start + 1, _ID_NAME, 13):
            if not _visible(p + value + 1, more):
                continue
            with_id = True
        else:
            continue
        begins[count] = value
        ends[count] = at
        count += 1
        left += at - value - 1
    if not count:
        return block, -1
    made = PyBytes_FromStringAndSize(NULL, end - left)
    to = PyBytes_AS_STRING(made)
    for at in range(count):
        memcpy(to, p + told, begins[at] - told)
        to += begins[at] - told
        to[0] = <char>0x80
        to += 1
        told = ends[at]
    memcpy(to, p + told, end - told)
    return made, length


@cython.final
cdef class FrameReader:
    """Cuts what was read into frames; see the Python twin."""

    def __init__(self):
        self._data = b""
        self._held = b""
        self._at = self._left = 0
        self.kind = -1
        self.flags = 0
        self.stream = 0
        self.size = self.start = self.stop = 0
        self.whole = True
        self.oversized = False

    @property
    def held(self):
        """How many bytes are held of a frame that has not come whole."""
        return PyBytes_GET_SIZE(self._held)

    cpdef bint halfway(self) except -1:
        """Whether a frame has begun that can only be looked at when it is whole."""
        return PyBytes_GET_SIZE(self._held) != 0

    cpdef feed(self, bytes data):
        """What was read. All that was fed before has been asked for."""
        if data is None:
            raise TypeError("bytes are needed, not None")
        if PyBytes_GET_SIZE(self._held):
            data = self._held + data
            self._held = b""
        self._data = data
        self._at = 0

    cpdef bint next(self) except -1:
        """Whether there is another frame, or another part of one."""
        cdef const unsigned char *p = <const unsigned char *>PyBytes_AS_STRING(self._data)
        cdef Py_ssize_t at = self._at
        cdef Py_ssize_t end = PyBytes_GET_SIZE(self._data)
        cdef Py_ssize_t size, start
        if self._left:
            return self._go_on(at, end)
        if end - at < _HEADER:
            return self._wait(at, end)
        size = (<Py_ssize_t>p[at] << 16) | (<Py_ssize_t>p[at + 1] << 8) | p[at + 2]
        self.kind = p[at + 3]
        self.flags = p[at + 4]
        self.stream = (<long>(p[at + 5] & 0x7F) << 24) | (<long>p[at + 6] << 16) | (<long>p[at + 7] << 8) | p[at + 8]
        self.size = size
        if size > _MOST:
            self.oversized = True
            return True
        start = at + _HEADER
        if self.kind == _DATA and not self.flags & _PADDED:
            self._left = size
            if size:
                return self._go_on(start, end)
        elif end - start < size:
            return self._wait(at, end)
        self.whole = True
        self.start = start
        self._at = self.stop = start + size
        return True

    cdef bint _go_on(self, Py_ssize_t at, Py_ssize_t end) except -1:
        cdef Py_ssize_t size
        self._at = end
        if at == end:
            self._data = b""
            self._at = 0
            return False
        size = self._left if self._left < end - at else end - at
        self._left -= size
        self.whole = not self._left
        self.start = at
        self._at = self.stop = at + size
        return True

    cdef bint _wait(self, Py_ssize_t at, Py_ssize_t end) except -1:
        if at < end:
            self._held = keep(self._data, at)
        self._data = b""
        self._at = 0
        return False

    cpdef bytes payload(self):
        """Of the frame that was found, what has come of its payload."""
        cdef Py_ssize_t size = self.stop - self.start
        if size == PyBytes_GET_SIZE(self._data):
            return self._data
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(self._data) + self.start, size)

    cpdef bytes frame(self):
        """The frame that was found, its header too. (Of whole frames.)"""
        return self._data[self.start - _HEADER : self.stop]
