# cython: boundscheck=False, wraparound=False, cdivision=True
"""The compiled twin of fastgw/policy/routing/loads.py: the same tree in C arrays."""

from libc.math cimport INFINITY
from libc.stdlib cimport calloc, free, malloc, realloc

from fastgw.net.clock cimport monotonic
from fastgw.upstream.pool cimport Pool
from fastgw.upstream.table cimport Group
from fastgw.upstream.target cimport Engine
from fastgw.upstream.watch cimport Journal, Watch

from fastgw.upstream import watch as _watch

cdef enum:
    _RING = 1024
    _REQUESTS = 0
    _TOKENS = 1

cdef double _FRESH_S = 0.05

if _watch.RING != _RING:
    raise ImportError("fastgw.policy.routing.loads was compiled with another fastgw.upstream.watch: build it again")

FRESH_S = _FRESH_S
REQUESTS = _REQUESTS
TOKENS = _TOKENS
NOBODY = INFINITY
cdef tuple _NAMES = ("loads", "tokens")


cpdef Loads loads_of(Group group, int unit):
    """Those of ``group``, which are kept with it."""
    cdef str name = <str>_NAMES[1 if unit == _TOKENS else 0]
    cdef Loads found = group.notes.get(name)
    if found is None:
        found = group.notes[name] = Loads(group.pools, unit)
    return found


def scores_of(Group group, int unit) -> list:
    """What each engine of ``group`` would have to do with one request more, for what it can take: for who asks why."""
    engines = [(<Pool>pool).engine for pool in group.pools]
    by_slots = all([engine.slots for engine in engines])
    found = []
    for engine in engines:
        waiting = f", {engine.queued} waiting in it" if engine.queued else ""
        if unit == TOKENS and engine.watch is not None:
            watch = engine.watch
            score = (watch.reading + watch.making + 1) / engine.weight
            why = f"{watch.reading} tokens of prompts to be read and {watch.making} to be made, at weight {engine.weight}"
        else:
            score = (engine.inflight + engine.queued + 1) / (engine.slots if by_slots else engine.weight)
            of = f"for {engine.slots} slots" if by_slots else f"at weight {engine.weight}"
            why = f"{engine.inflight} requests under way{waiting}, {of}"
        found.append((score, why))
    return found


cdef class Loads:
    """Of the engines of ``pools``, by ``unit``."""

    def __cinit__(self, tuple pools not None, int unit):
        cdef Py_ssize_t half = 1
        cdef Py_ssize_t at
        self._count = len(pools)
        while half < self._count:
            half *= 2
        self.pools = pools
        self._unit = unit
        self._half = half
        self._keys = <double*>malloc(2 * half * sizeof(double))
        self._loads = <long long*>calloc(self._count + 1, sizeof(long long))
        self._rooms = <long long*>calloc(self._count + 1, sizeof(long long))
        if self._keys == NULL or self._loads == NULL or self._rooms == NULL:
            raise MemoryError
        for at in range(2 * half):
            self._keys[at] = INFINITY
        self._fresh_at = -INFINITY

    def __dealloc__(self):
        free(self._keys)
        free(self._loads)
        free(self._rooms)
        free(self._places)

    cpdef Py_ssize_t least(self, Py_ssize_t start) except -2:
        cdef double least
        cdef Py_ssize_t at
        self.sync()
        while True:
            least = self._keys[1]
            if least == INFINITY:
                return -1
            at = self._find(start, least)
            if at < 0:
                at = self._find(0, least)
            self._weigh(at)
            if self._keys[self._half + at] == least:
                return at

    cpdef Py_ssize_t least_but(self, Py_ssize_t start, tuple tried) except -2:
        cdef Py_ssize_t best = -1
        cdef double least = INFINITY
        cdef double key
        cdef Py_ssize_t step, at
        cdef Pool pool
        self.sync()
        for step in range(self._count):
            at = start + step
            if at >= self._count:
                at -= self._count
            key = self._keys[self._half + at]
            if key < least:
                pool = <Pool>self.pools[at]
                if pool not in tried and pool.engine.usable():
                    best = at
                    least = key
        return best

    cdef Py_ssize_t _find(self, Py_ssize_t start, double most) noexcept:
        cdef double *keys = self._keys
        cdef Py_ssize_t half = self._half
        cdef Py_ssize_t node
        if start >= half:
            return -1
        node = start + half
        while keys[node] > most:
            while node & 1:
                node >>= 1
            if node == 0:
                return -1
            node += 1
        while node < half:
            node *= 2
            if keys[node] > most:
                node += 1
        return node - half

    cpdef Py_ssize_t place(self, Pool pool) except -2:
        cdef Watch watch = pool.engine.watch
        cdef Py_ssize_t at
        if self._journal is None or watch is None:
            return self.pools.index(pool) if pool in self.pools else -1
        if watch.number >= self._numbers:
            return -1
        at = self._places[watch.number]
        return at if at >= 0 and self.pools[at] is pool else -1

    cpdef long long load(self, Py_ssize_t at) except? -1:
        if not 0 <= at < self._count:
            raise IndexError("list index out of range")
        return self._loads[at]

    cpdef long long room(self, Py_ssize_t at) except? -1:
        if not 0 <= at < self._count:
            raise IndexError("list index out of range")
        return self._rooms[at]

    cpdef double key(self, Py_ssize_t at) except? -1.0:
        if not 0 <= at < self._count:
            raise IndexError("list index out of range")
        return self._keys[self._half + at]

    cpdef long long bound(self, Py_ssize_t at, long long percent, long long above=0) except? -1:
        cdef long long over, share, most, least
        if self.rooms <= 0:
            return 1
        if not 0 <= at < self._count:
            raise IndexError("list index out of range")
        over = 100 * self.rooms
        share = (self.total + 1) * self._rooms[at]
        most = (share * percent + over - 1) / over
        least = (share + self.rooms - 1) / self.rooms + above
        return most if above == 0 or most >= least else least

    cpdef sync(self):
        cdef Journal journal = self._journal
        cdef Watch watch
        cdef list changes
        cdef long long seen, count
        cdef Py_ssize_t at
        if journal is None or journal.count - self._seen > _RING or monotonic() >= self._fresh_at + _FRESH_S:
            self._refresh()
            return
        seen = self._seen
        count = journal.count
        if seen == count:
            return
        changes = journal.changes
        while seen < count:
            watch = <Watch?>changes[seen & (_RING - 1)]
            seen += 1
            if watch.number < self._numbers:
                at = self._places[watch.number]
                if at >= 0:
                    self._weigh(at)
        self._seen = count

    cdef _refresh(self):
        cdef Journal journal = None
        cdef Watch watch
        cdef Pool pool
        cdef Engine engine
        cdef bint watched = True
        cdef bint by_slots = True
        cdef Py_ssize_t at, node, most
        cdef double left, right
        cdef double *keys = self._keys
        for at in range(self._count):
            pool = <Pool?>self.pools[at]
            engine = pool.engine
            watch = engine.watch
            if watch is None or (journal is not None and watch.journal is not journal):
                watched = False
            else:
                journal = watch.journal
            if engine.slots == 0:
                by_slots = False
        if not watched:
            journal = None
        if journal is not self._journal or (journal is not None and not self._placed()):
            self._journal = journal
            free(self._places)
            self._places = NULL
            self._numbers = 0
            if journal is not None:
                most = 0
                for at in range(self._count):
                    most = max(most, (<Pool>self.pools[at]).engine.watch.number)
                self._places = <int*>malloc((most + 1) * sizeof(int))
                if self._places == NULL:
                    self._journal = None
                    raise MemoryError
                self._numbers = most + 1
                for at in range(self._numbers):
                    self._places[at] = -1
                for at in range(self._count):
                    self._places[(<Pool>self.pools[at]).engine.watch.number] = at
        self._by_slots = by_slots
        self._seen = journal.count if journal is not None else 0
        self._fresh_at = monotonic()
        self.total = 0
        self.rooms = 0
        for at in range(self._count):
            pool = <Pool>self.pools[at]
            keys[self._half + at] = self._figure(at, pool.engine)
            self.total += self._loads[at]
            self.rooms += self._rooms[at]
        for node in range(self._half - 1, 0, -1):
            left = keys[2 * node]
            right = keys[2 * node + 1]
            keys[node] = left if left <= right else right

    cdef bint _placed(self) except -1:
        cdef Watch watch
        cdef Py_ssize_t at
        for at in range(self._count):
            watch = (<Pool>self.pools[at]).engine.watch
            if watch is None or watch.number >= self._numbers or self._places[watch.number] != at:
                return False
        return True

    cdef double _figure(self, Py_ssize_t at, Engine engine) except -1.0:
        cdef bint usable = engine.usable()
        cdef long long load, room
        cdef Watch watch
        if not usable and not engine.full():
            self._loads[at] = 0
            self._rooms[at] = 0
            return INFINITY
        load = engine.inflight + engine.queued
        room = engine.slots if self._by_slots and engine.slots else engine.weight
        self._loads[at] = load
        self._rooms[at] = room
        if not usable:
            return INFINITY
        watch = engine.watch
        if self._unit == _TOKENS and watch is not None:
            return <double>(watch.reading + watch.making + 1) / <double>engine.weight
        return <double>(load + 1) / <double>room

    cdef int _weigh(self, Py_ssize_t at) except -1:
        cdef double *keys = self._keys
        cdef double key, left, right, least
        cdef Py_ssize_t node
        self.total -= self._loads[at]
        self.rooms -= self._rooms[at]
        key = self._figure(at, (<Pool>self.pools[at]).engine)
        self.total += self._loads[at]
        self.rooms += self._rooms[at]
        node = self._half + at
        if keys[node] == key:
            return 0
        keys[node] = key
        node >>= 1
        while node:
            left = keys[2 * node]
            right = keys[2 * node + 1]
            least = left if left <= right else right
            if keys[node] == least:
                return 0
            keys[node] = least
            node >>= 1
        return 0
