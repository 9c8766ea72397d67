# cython: boundscheck=False, wraparound=False, cdivision=True
"""The compiled twin of fastgw/accel/prefixes.py: the table is one array of nodes, chained by their hashes and by their use.

Blocks are hashed by multiplications of 64 bits to 128 in four lanes, keyed: each half of a product depends on all bits of both
numbers, so that without the key nobody makes two blocks meet.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static CYTHON_INLINE uint64_t fastgw_fold(uint64_t a, uint64_t b) {
    #ifdef __SIZEOF_INT128__
        const unsigned __int128 product = (unsigned __int128)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    #else
        const uint64_t low = (a & 0xffffffffULL) * (b >> 32 | 1), high = (a >> 32 | 1) * (b & 0xffffffffULL);
        const uint64_t mixed = a * b ^ (low << 32 | low >> 32) ^ high;
        return mixed ^ mixed >> 29;
    #endif
    }
    static CYTHON_INLINE uint64_t fastgw_word(const unsigned char *p) {
        uint64_t word;
        memcpy(&word, p, 8);
        return word;
    }
    /* ``size`` is a multiple of 64. */
    static uint64_t fastgw_block_hash(const unsigned char *p, Py_ssize_t size, uint64_t before, const uint64_t *key) {
        const unsigned char *end = p + size;
        uint64_t one = before ^ key[0], two = before ^ key[1], three = before ^ key[2], four = before ^ key[3];
        for (; p < end; p += 64) {
            one = fastgw_fold(fastgw_word(p) ^ key[1], fastgw_word(p + 8) ^ one);
            two = fastgw_fold(fastgw_word(p + 16) ^ key[2], fastgw_word(p + 24) ^ two);
            three = fastgw_fold(fastgw_word(p + 32) ^ key[3], fastgw_word(p + 40) ^ three);
            four = fastgw_fold(fastgw_word(p + 48) ^ key[4], fastgw_word(p + 56) ^ four);
        }
        one = fastgw_fold(one ^ key[4], two ^ key[3]);
        three = fastgw_fold(three ^ key[2], four ^ key[1]);
        return fastgw_fold(one ^ key[0], three ^ (uint64_t)size);
    }
    """
    uint64_t block_hash "fastgw_block_hash"(const unsigned char *p, Py_ssize_t size, uint64_t before, const uint64_t *key) noexcept

FIRST_BYTES = 512
STEP = 16
MOST_BLOCKS = _MOST_BLOCKS
MOST_HOLDERS = _MOST_HOLDERS
MOST_SLOTS = 4096
NODE_BYTES = 40
FEWEST_NODES = 64
SECRET_BYTES = 40

cdef enum:
    _FIRST_BYTES = 512
    _STEP = 16
    _MOST_SLOTS = 4096
    _NODE_BYTES = 40
    _FEWEST_NODES = 64
    _SECRET_BYTES = 40

cdef long long _MOST_NODES = 0x7fffffff


cdef class Prefixes:
    """See the head of this file's source."""

    def __cinit__(self, bytes secret not None, most_bytes, long long slot_bytes):
        cdef uint64_t buckets = 1
        cdef long long most
        if PyBytes_GET_SIZE(secret) != _SECRET_BYTES:
            raise ValueError(f"a secret has {SECRET_BYTES} bytes")
        memcpy(self._keys, PyBytes_AS_STRING(secret), _SECRET_BYTES)
        most = min(max(most_bytes // _NODE_BYTES, _FEWEST_NODES), _MOST_NODES)
        self._most = <uint32_t>most
        self._free = most
        while buckets * 2 <= <uint64_t>most:
            buckets *= 2
        self._mask = buckets - 1
        self.most_bytes = most_bytes
        self.slot_bytes = slot_bytes
        self._slots = {}
        # (Zeroed pages are the kernel's until they are used: a table that stays empty takes nothing.)
        self._nodes = <Node*>calloc(<size_t>most + 1, sizeof(Node))
        self._buckets = <uint32_t*>calloc(buckets, sizeof(uint32_t))
        self._of = <Slot*>calloc(_MOST_SLOTS, sizeof(Slot))
        if self._nodes == NULL or self._buckets == NULL or self._of == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._nodes)
        free(self._buckets)
        free(self._of)

    # --- slots
    cpdef Py_ssize_t slot(self, str name) except -1:
        cdef Py_ssize_t slot
        found = self._slots.get(name)
        if found is not None:
            return found
        if self._made >= _MOST_SLOTS:
            gone = min(self._slots, key=self._tick_of)
            slot = self._slots.pop(gone)
            self.forget(slot)
        else:
            slot = self._made
            self._made += 1
        self._turn += 1
        self._of[slot].tick = self._turn
        self._slots[name] = slot
        return slot

    def _tick_of(self, name):
        return self._of[<Py_ssize_t>self._slots[name]].tick

    def forget(self, Py_ssize_t slot):
        """The engine has nothing any more."""
        self._check(slot)
        while self._of[slot].oldest:
            self._drop(self._of[slot].oldest)

    def taken(self, Py_ssize_t slot):
        """Bytes of prompts that the engine is thought to have at hand."""
        self._check(slot)
        return self._of[slot].taken

    def nodes(self):
        """Blocks at engines that there is room for still."""
        return self._free

    def _check(self, Py_ssize_t slot):
        if not 0 <= slot < self._made:
            raise IndexError("list index out of range")

    # --- a prompt
    cpdef Py_ssize_t look(self, bytes body, Py_ssize_t start, Py_ssize_t end, object seed) except -1:
        cdef const unsigned char *p
        cdef uint64_t known = <uint64_t>(seed & 0xffffffffffffffff)
        cdef Py_ssize_t size = _FIRST_BYTES
        cdef Py_ssize_t at, place, one
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t found = 0
        cdef long long held
        cdef uint32_t node
        cdef int slot
        if body is None:
            raise TypeError("a body is bytes")
        self.found = 0
        self.count = 0
        if start < 0 or end > PyBytes_GET_SIZE(body):
            return 0
        p = <const unsigned char *>PyBytes_AS_STRING(body)
        at = start
        while at + size <= end and count < _MOST_BLOCKS:
            known = block_hash(p + at, size, known, self._keys)
            self._blocks[count] = known
            self._sizes[count] = <uint32_t>size
            count += 1
            at += size
            if count % _STEP == 0:
                size *= 2
        self.count = count
        held = at - start
        for place in range(count - 1, -1, -1):
            node = self._buckets[self._blocks[place] & self._mask]
            while node:
                if self._nodes[node].hash == self._blocks[place]:
                    slot = self._nodes[node].slot
                    for one in range(found):
                        if self._found[one] == slot:
                            break
                    else:
                        self._found[found] = slot
                        self._held[found] = held
                        found += 1
                        if found == _MOST_HOLDERS:
                            self.found = found
                            return count
                node = self._nodes[node].next
            held -= self._sizes[place]
        self.found = found
        return count

    cpdef Py_ssize_t holder(self, Py_ssize_t number) except -1:
        if not 0 <= number < self.found:
            raise IndexError("list index out of range")
        return self._found[number]

    cpdef Py_ssize_t held(self, Py_ssize_t number) except -1:
        if not 0 <= number < self.found:
            raise IndexError("list index out of range")
        return self._held[number]

    cpdef put(self, Py_ssize_t slot):
        cdef Py_ssize_t place
        cdef uint32_t node
        self._check(slot)
        self._turn += 1
        self._of[slot].tick = self._turn
        for place in range(self.count - 1, -1, -1):
            node = self._node(self._blocks[place], slot)
            if node:
                self._unlink(node)
                self._link(node)
            else:
                self._add(self._blocks[place], self._sizes[place], slot)
        while self._of[slot].taken > self.slot_bytes:
            self._drop(self._of[slot].oldest)

    # --- nodes
    cdef uint32_t _node(self, uint64_t hash, int slot) noexcept:
        cdef uint32_t node = self._buckets[hash & self._mask]
        while node:
            if self._nodes[node].hash == hash and self._nodes[node].slot == slot:
                return node
            node = self._nodes[node].next
        return 0

    cdef void _unlink(self, uint32_t node) noexcept:
        """Take it out of its slot's order of use."""
        cdef Node *one = &self._nodes[node]
        cdef Slot *slot = &self._of[one.slot]
        if one.older:
            self._nodes[one.older].newer = one.newer
        else:
            slot.oldest = one.newer
        if one.newer:
            self._nodes[one.newer].older = one.older
        else:
            slot.newest = one.older

    cdef void _link(self, uint32_t node) noexcept:
        """It is the one used last."""
        cdef Node *one = &self._nodes[node]
        cdef Slot *slot = &self._of[one.slot]
        one.newer = 0
        one.older = slot.newest
        if slot.newest:
            self._nodes[slot.newest].newer = node
        else:
            slot.oldest = node
        slot.newest = node

    cdef void _add(self, uint64_t hash, uint32_t size, int slot) noexcept:
        cdef uint32_t *bucket
        cdef uint32_t node, last
        cdef int holders = 0
        if self._free == 0:
            if self._of[slot].oldest:
                self._drop(self._of[slot].oldest)
            else:
                while self._of[self._hand].oldest == 0:
                    self._hand = (self._hand + 1) % self._made
                node = self._of[self._hand].oldest
                self._hand = (self._hand + 1) % self._made
                self._drop(node)
        bucket = &self._buckets[hash & self._mask]
        last = 0
        node = bucket[0]
        while node:
            if self._nodes[node].hash == hash:
                holders += 1
                last = node  # whoever is in a bucket longest stands last
            node = self._nodes[node].next
        if holders == _MOST_HOLDERS:
            self._drop(last)
        self._free -= 1
        if self._first_free:
            node = self._first_free
            self._first_free = self._nodes[node].next
        else:
            self._used += 1
            node = self._used
        self._nodes[node].hash = hash
        self._nodes[node].size = size
        self._nodes[node].slot = slot
        self._nodes[node].next = bucket[0]
        bucket[0] = node
        self._of[slot].taken += size
        self._link(node)

    cdef void _drop(self, uint32_t node) noexcept:
        cdef Node *one = &self._nodes[node]
        cdef uint32_t *link = &self._buckets[one.hash & self._mask]
        while link[0] != node:
            link = &self._nodes[link[0]].next
        link[0] = one.next
        self._unlink(node)
        self._of[one.slot].taken -= one.size
        self._free += 1
        one.next = self._first_free
        self._first_free = node
