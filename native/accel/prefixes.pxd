from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    _MOST_BLOCKS = 112
    _MOST_HOLDERS = 8

cdef struct Node:
    uint64_t hash
    uint32_t size
    int slot
    uint32_t older  # of the same slot; 0 = none, else the place and 1
    uint32_t newer
    uint32_t next  # in the same bucket, or of those that are free
    uint32_t unused

cdef struct Slot:
    uint32_t oldest
    uint32_t newest
    long long taken
    long long tick


cdef class Prefixes:
    cdef public Py_ssize_t count, found
    cdef public long long most_bytes, slot_bytes
    cdef uint64_t[5] _keys
    cdef Node *_nodes
    cdef uint32_t *_buckets
    cdef Slot *_of
    cdef uint64_t _mask
    cdef uint32_t _most, _used, _first_free
    cdef long long _free, _turn
    cdef Py_ssize_t _hand, _made
    cdef dict _slots
    cdef uint64_t[_MOST_BLOCKS] _blocks
    cdef uint32_t[_MOST_BLOCKS] _sizes
    cdef int[_MOST_HOLDERS] _found
    cdef long long[_MOST_HOLDERS] _held

    cpdef Py_ssize_t slot(self, str name) except -1
    cpdef Py_ssize_t look(self, bytes body, Py_ssize_t start, Py_ssize_t end, object seed) except -1
    cpdef Py_ssize_t holder(self, Py_ssize_t number) except -1
    cpdef Py_ssize_t held(self, Py_ssize_t number) except -1
    cpdef put(self, Py_ssize_t slot)
    cdef uint32_t _node(self, uint64_t hash, int slot) noexcept
    cdef void _unlink(self, uint32_t node) noexcept
    cdef void _link(self, uint32_t node) noexcept
    cdef void _drop(self, uint32_t node) noexcept
    cdef void _add(self, uint64_t hash, uint32_t size, int slot) noexcept
