"""Compiled twin of fastgw/limits/shared.py: the same words by their address, under a robust mutex (pthread_mutexattr_setrobust(3)):
where its holder has ended, the next one gets it, and is told so."""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer

LOCK_WORDS = 16

cdef extern from *:
    """
    #include <errno.h>
    #include <pthread.h>

    static int fastgw_mutex_make(void *at) {
        pthread_mutexattr_t how;
        int failed = pthread_mutexattr_init(&how);
        if (failed) return failed;
        failed = pthread_mutexattr_setpshared(&how, PTHREAD_PROCESS_SHARED);
        if (!failed) failed = pthread_mutexattr_setrobust(&how, PTHREAD_MUTEX_ROBUST);
        if (!failed) failed = pthread_mutexattr_settype(&how, PTHREAD_MUTEX_ERRORCHECK);
        if (!failed) failed = pthread_mutex_init((pthread_mutex_t *)at, &how);
        pthread_mutexattr_destroy(&how);
        return failed;
    }

    /* Whoever had it and has ended has left each record whole: it goes on as if nothing had been. */
    static int fastgw_mutex_lock(void *at) {
        int failed = pthread_mutex_lock((pthread_mutex_t *)at);
        return failed == EOWNERDEAD ? pthread_mutex_consistent((pthread_mutex_t *)at) : failed;
    }

    static int fastgw_mutex_unlock(void *at) { return pthread_mutex_unlock((pthread_mutex_t *)at); }
    static void fastgw_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    typedef char fastgw_mutex_fits[sizeof(pthread_mutex_t) <= 128 ? 1 : -1];
    """
    int fastgw_mutex_make(void *at) nogil
    int fastgw_mutex_lock(void *at) nogil
    int fastgw_mutex_unlock(void *at) nogil
    void fastgw_fence() nogil


@cython.final
cdef class Pages:
    """See the Python twin."""

    def __init__(self, fd, size, fresh):
        import mmap  # (no part of a start)

        self._map = mmap.mmap(fd, size * 8)
        PyObject_GetBuffer(self._map, &self._view, PyBUF_WRITABLE)
        self.words = <long long *>self._view.buf
        if fresh:
            _well(fastgw_mutex_make(self.words))

    def __dealloc__(self):
        if self.words != NULL:
            PyBuffer_Release(&self._view)

    cdef int lock(self) except -1:
        cdef int failed = fastgw_mutex_lock(self.words)
        if failed:
            _well(failed)
        return 0

    cdef int unlock(self) except -1:
        cdef int failed = fastgw_mutex_unlock(self.words)
        if failed:
            _well(failed)
        return 0

    cdef void settle(self) noexcept:
        fastgw_fence()

    cpdef close(self):
        if self.words != NULL:
            self.words = NULL
            PyBuffer_Release(&self._view)
            self._map.close()


cdef int _well(int failed) except -1:
    if failed:
        raise OSError(failed, "the lock of the memory that the workers have in common")
    return 0


@cython.final
cdef class Record:
    """See the Python twin."""

    def __init__(self, region, str kind, long long high, long long low):
        self.region = region
        self.kind = kind
        self.high = high
        self.low = low
