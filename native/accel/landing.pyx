"""Compiled twin of fastgw/accel/landing.py: the kernel writes into the bytes object that is handed on.

Until ``whole`` nobody but this object refers to it, so that it may grow, and be written. A large one is a mapping of its own, or the
end of the heap: its pages are there when they are written, and it grows without being copied.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.string cimport memcpy

from fastgw.accel.sockets cimport receive

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **data, Py_ssize_t size) except -1
    char *address "PyBytes_AS_STRING"(PyObject *data)
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size) except NULL
    void let_go "Py_XDECREF"(PyObject *data)

cdef extern from *:
    """
    #include <stdint.h>
    #include <stdlib.h>
    #ifdef __GLIBC__
    #include <malloc.h>
    #include <sys/mman.h>
    #include <unistd.h>
    #endif

    static int fastgw_retain(int kept, int ahead, int mapped) {
    #ifdef __GLIBC__
        return mallopt(M_TRIM_THRESHOLD, kept) && mallopt(M_TOP_PAD, ahead) && mallopt(M_MMAP_THRESHOLD, mapped);
    #else
        return 0;
    #endif
    }

    /* Blocks whose pages were given back, and which are held until no free one is left: each begins with the next one's address. */
    static void *fastgw_emptied = NULL;

    /* Empty so many free blocks of `size` bytes, or let so many go that were. 0 = all is done. The allocator's own way to the same
       end (malloc_trim) takes all at once: 13 ms for 135 MB. */
    static int fastgw_give_back(int count, size_t size) {
    #ifdef __GLIBC__
        static int letting_go = 0;
        const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
        for (; count > 0 && !letting_go; count--) {
            char *const end = (char *)sbrk(0);
            char *const block = (char *)malloc(size);
            uintptr_t from, to;
            if (block == NULL || block >= end || (char *)sbrk(0) != end) {  /* no free one: this is another's, or new */
                free(block);
                letting_go = 1;
                break;
            }
            from = ((uintptr_t)block + sizeof(void *) + page - 1) & ~(page - 1);
            to = ((uintptr_t)block + size) & ~(page - 1);
            madvise((void *)from, to - from, MADV_DONTNEED);
            *(void **)block = fastgw_emptied;
            fastgw_emptied = block;
        }
        for (count *= 32; count > 0 && fastgw_emptied != NULL && letting_go; count--) {
            void *const block = fastgw_emptied;
            fastgw_emptied = *(void **)block;
            free(block);
        }
        if (letting_go && fastgw_emptied == NULL)
            return letting_go = 0;
        return 1;
    #else
        return 0;
    #endif
    }
    """
    bint fastgw_retain(int kept, int ahead, int mapped)
    bint fastgw_give_back(int count, size_t size)

cdef enum:
    FIRST = 65536  # bytes of room before any have come
    AHEAD = 64  # and so many times what has come after that: a block that grows by copying leaves a hole where it was
    LEAST = 4096  # where nobody knows how much will come
    KEPT = 8 << 20  # bytes at the end of the heap that stay when they are free
    GROWS_BY = 2 << 20  # and so many more than are needed are taken from the system at once: addresses, until they are written
    MAPPED = 4 << 20  # a block of so many is the system's again when it is free, wherever it lies
    PIECE = 64 << 10  # bytes of a block of which the pages are given back: what lies free in smaller ones stays
    PIECES = 16  # of them at once: 0.1 ms

cdef long long room = 0  # for all bodies that are coming
cdef long long most = 0
cdef bint retains = False


@cython.final
@cython.no_gc
cdef class Landing:
    """A body of ``length`` bytes, of which ``got`` have come; ``length`` -1 = nobody knows."""

    def __cinit__(self, long long length):
        self.length = length

    def __dealloc__(self):
        self._has_room(0)
        let_go(self._data)

    cdef void _has_room(self, Py_ssize_t size) noexcept:
        global room, most
        room += size - self._room
        most = max(most, room)
        self._room = size

    cdef int _make_room(self, Py_ssize_t size) except -1:
        """``size`` bytes in all. After a MemoryError nothing is held, and this is of no use any more: each call raises another."""
        if self._data == NULL:
            if self.got:
                raise MemoryError
            self._data = new_bytes(NULL, size)
        else:
            self._has_room(0)
            _PyBytes_Resize(&self._data, size)
        self._has_room(size)
        return 0

    cpdef put(self, bytes data):
        """Bytes of it that were read elsewhere."""
        cdef Py_ssize_t size
        cdef Py_ssize_t need
        if data is None:
            raise TypeError("expected bytes, not None")
        size = PyBytes_GET_SIZE(data)
        need = self.got + size
        if need > self._room:
            if need <= self.length:
                self._make_room(min(self.length, max(<Py_ssize_t>FIRST, AHEAD * need)))
            else:
                self._make_room(max(need, self._room + (self._room >> 1), <Py_ssize_t>LEAST))
        memcpy(address(self._data) + self.got, PyBytes_AS_STRING(data), size)
        self.got = need

    cpdef Py_ssize_t recv(self, int fd, Py_ssize_t most) except -1:
        """Read what is there, ``most`` bytes or what is missing at the most: how many they were, 0 at the end of the stream."""
        cdef Py_ssize_t size
        if self.got >= self._room:
            self._make_room(min(self.length, max(<Py_ssize_t>FIRST, AHEAD * self.got)))
        size = receive(fd, address(self._data) + self.got, min(most, self._room - self.got))
        self.got += size
        return size

    cpdef bytes whole(self):
        """What has come; nothing of it is held here any more."""
        cdef PyObject *data
        cdef Py_ssize_t size = self.got
        if self._data == NULL:
            if size:
                raise MemoryError
            return b""
        if self._room != size:
            self._has_room(0)
            _PyBytes_Resize(&self._data, size)
        data = self._data
        self._data = NULL
        self._has_room(0)
        self.got = 0
        result = <bytes>data
        let_go(data)
        return result


def retain():
    """Have what bodies leave behind used again by the next ones, in the whole process; whether the allocator takes it."""
    global retains
    retains = fastgw_retain(KEPT, GROWS_BY, MAPPED)
    return retains


def most_room() -> int:
    """The most bytes that all bodies on their way in had room for at once, since this was asked last."""
    global most
    said = most
    most = room
    return said


def give_back() -> bool:
    """Give the system pages that bodies have left free in the heap, below what is in use, a fraction of a millisecond's worth;
    whether there may be more."""
    return retains and fastgw_give_back(PIECES, PIECE)
