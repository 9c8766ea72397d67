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
    #include <stdlib.h>
    #ifdef __GLIBC__
    #include <malloc.h>
    #endif

    static int fastgw_retain(int kept, int ahead, int mapped) {
    #ifdef __GLIBC__
        return mallopt(M_TRIM_THRESHOLD, kept) && mallopt(M_TOP_PAD, ahead) && mallopt(M_MMAP_THRESHOLD, mapped);
    #else
        return 0;
    #endif
    }
    static void fastgw_map_from(int mapped) {
    #ifdef __GLIBC__
        mallopt(M_MMAP_THRESHOLD, mapped);
    #endif
    }
    """
    bint fastgw_retain(int kept, int ahead, int mapped)
    void fastgw_map_from(int mapped)

cdef enum:
    FIRST = 65536  # bytes of room before any have come
    AHEAD = 64  # and so many times what has come after that: a block that grows by copying leaves a hole where it was
    LEAST = 4096  # where nobody knows how much will come
    KEPT = 8 << 20  # bytes at the end of the heap that stay when they are free
    GROWS_BY = 2 << 20  # and so many more than are needed are taken from the system at once: addresses, until they are written
    MAPPED = 4 << 20  # a block of so many is the system's again when it is free, wherever it lies
    CROWD = 32 << 20  # bytes of bodies, and of room for them: what is free below a block in use would stay after more than that
    CROWD_MAPPED = 128 << 10  # so meanwhile no block of so many makes the heap larger

cdef long long room_open = 0  # of all bodies that are coming
cdef bint retains = False
cdef bint in_crowd = False


@cython.final
@cython.no_gc
cdef class Landing:
    """A body of ``length`` bytes, of which ``got`` have come; ``length`` -1 = nobody knows."""

    def __cinit__(self, long long length):
        self.length = length

    def __dealloc__(self):
        global room_open
        room_open -= self._room
        let_go(self._data)

    cdef int _make_room(self, Py_ssize_t room) except -1:
        """``room`` bytes in all. After a MemoryError nothing is held, and this is of no use any more: each call raises another."""
        global room_open
        if self._data == NULL:
            if self.got:
                raise MemoryError
            self._data = new_bytes(NULL, room)
        else:
            room_open -= self._room
            self._room = 0
            _PyBytes_Resize(&self._data, room)
        self._room = room
        room_open += room
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
        global room_open
        cdef PyObject *data
        cdef Py_ssize_t size = self.got
        room_open -= self._room
        if self._data == NULL:
            if size:
                raise MemoryError
            return b""
        if self._room != size:
            self._room = 0
            _PyBytes_Resize(&self._data, size)
        data = self._data
        self._data = NULL
        self._room = self.got = 0
        result = <bytes>data
        let_go(data)
        return result


def retain():
    """Have what bodies leave behind used again by the next ones, in the whole process; whether the allocator takes it."""
    global retains
    retains = fastgw_retain(KEPT, GROWS_BY, MAPPED)
    return retains


def crowded(long long held):
    """A body is about to come, and ``held`` bytes of others are in memory: where that is much, what more comes is the system's
    again as soon as it is done with."""
    global in_crowd
    cdef bint much = held + room_open > (CROWD >> 1 if in_crowd else CROWD)
    if retains and much != in_crowd:
        in_crowd = much
        fastgw_map_from(CROWD_MAPPED if much else MAPPED)
