"""Compiled twin of fastgw/accel/sockets.py: the system calls themselves.

``recv`` reads into a spare buffer, a bytes object of ``CAPACITY`` bytes whose size is set to what came, and hands out
that object: no allocation and no copy per read. There are two, for whoever still has one read when the next one comes.
Why that is safe:

- ``spare`` and ``other`` are C variables. No Python code can reach the objects but through what ``recv`` returned.
- One is written only while its reference count is 1, and that one is ours: whoever has had it has let go of it, and what
  looks into it without a reference of its own (a pointer held across a call) has returned. Else the object is left to
  its holders, bytes unchanged for ever, and a new one takes its place.
- No Python code runs between that look and the end of the write, and the lock of the interpreter is held. (Where the
  interpreter has no such lock, reference counts prove nothing: every read takes a new object there.)
- The hash that it may have had is forgotten with the bytes that it was of. Bytes objects are not tracked by the garbage
  collector, have no weak references, and the allocator does not ask for their size.

The price is that who keeps such an object keeps all of its memory; ``keep`` is for them. The lock is never released:
these calls do not wait, and giving it back and taking it again costs more than they do.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.object cimport PyObject
from libc.errno cimport EINTR, errno

cdef extern from *:
    """
    #include <sys/types.h>
    #include <sys/ioctl.h>
    #include <sys/socket.h>
    #include <sys/syscall.h>
    #include <sys/uio.h>
    #include <string.h>
    #include <unistd.h>
    #include <termios.h>
    #ifdef __linux__
    #include <linux/sockios.h>
    #endif

    #ifndef MSG_MORE
    #define MSG_MORE 0
    #endif
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0  /* the interpreter ignores SIGPIPE anyway */
    #endif

    #ifdef Py_GIL_DISABLED
    #define FASTGW_SOLE_OWNER(object) 0
    #else
    #define FASTGW_SOLE_OWNER(object) (Py_REFCNT(object) == 1)
    #endif

    #if defined(__GNUC__) || defined(__clang__)
    #pragma GCC diagnostic push
    #pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    #endif
    /* On a bare pointer: taken as an object, it would be held by one reference more while it is looked at. */
    static void fastgw_fill(PyObject *object, Py_ssize_t size) {
        Py_SET_SIZE((PyVarObject *)object, size);
        PyBytes_AS_STRING(object)[size] = 0;
        ((PyBytesObject *)object)->ob_shash = -1;
    }
    #if defined(__GNUC__) || defined(__clang__)
    #pragma GCC diagnostic pop
    #endif

    /* Not by the library's recv and send: these may be where a thread is cancelled, and say so before and after with two locked
       instructions each as soon as the process has had a second thread. Nobody cancels ours, and these calls do not wait. */
    #if defined(__linux__) && defined(SYS_recvfrom) && defined(SYS_sendto)
    #define fastgw_recv(fd, buffer, size, flags) \\
        ((ssize_t)syscall(SYS_recvfrom, (long)(fd), buffer, (size_t)(size), (long)(flags), NULL, NULL))
    #define fastgw_send(fd, data, size, flags) \\
        ((ssize_t)syscall(SYS_sendto, (long)(fd), data, (size_t)(size), (long)(flags), NULL, 0L))
    #else
    #define fastgw_recv recv
    #define fastgw_send send
    #endif

    static ssize_t fastgw_send_both(int fd, char *first, size_t n_first, char *second, size_t n_second) {
        struct iovec both[2];
        struct msghdr message;
        both[0].iov_base = first;
        both[0].iov_len = n_first;
        both[1].iov_base = second;
        both[1].iov_len = n_second;
        memset(&message, 0, sizeof message);
        message.msg_iov = both;
        message.msg_iovlen = 2;
        return sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    }

    static int fastgw_queued(int fd, unsigned long question) {
        int count = 0;
        return ioctl(fd, question, &count) ? -1 : count;
    }
    """
    ssize_t c_recv "fastgw_recv"(int fd, void *buffer, size_t size, int flags)
    ssize_t c_send "fastgw_send"(int fd, const void *data, size_t size, int flags)
    ssize_t fastgw_send_both(int fd, char *first, size_t n_first, char *second, size_t n_second)
    int fastgw_queued(int fd, unsigned long question)
    void fastgw_fill(PyObject *data, Py_ssize_t size)
    bint FASTGW_SOLE_OWNER(PyObject *data)
    char *address "PyBytes_AS_STRING"(PyObject *data)
    PyObject *new_buffer "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size) except NULL
    void let_go "Py_DECREF"(PyObject *data)
    int MSG_DONTWAIT
    int MSG_MORE
    int MSG_NOSIGNAL
    unsigned long FIONREAD
    unsigned long TIOCOUTQ

cdef enum:
    CAPACITY = 65536  # one read at the most, whatever the caller would take
    WORTH_COPYING = 32768  # what fills less of the buffer than this is copied by `keep`

cdef PyObject *spare = new_buffer(NULL, CAPACITY)  # the one that was handed out last
cdef PyObject *other = new_buffer(NULL, CAPACITY)
cdef unsigned long long n_copies = 0
cdef unsigned long long n_copied_bytes = 0
cdef unsigned long long n_receives = 0
cdef unsigned long long n_sends = 0
cdef unsigned long long n_buffers = 0


cdef int interrupted() except -1:
    """After a call that failed: 1 = do it again. A signal's handler runs first, and may raise."""
    if errno == EINTR:
        PyErr_CheckSignals()
        return 1
    PyErr_SetFromErrno(OSError)
    return -1


cpdef bytes recv(int fd, Py_ssize_t max_bytes):
    """What is there, b"" at the end of the stream."""
    global spare, other, n_receives, n_buffers
    cdef ssize_t size
    cdef PyObject *fresh
    if max_bytes > CAPACITY:
        max_bytes = CAPACITY
    elif max_bytes < 0:
        raise OSError(22, "Invalid argument")
    while True:
        # (Inside the loop: a signal's handler may have read into the spare.)
        if not FASTGW_SOLE_OWNER(spare):
            fresh = other
            if not FASTGW_SOLE_OWNER(fresh):
                fresh = new_buffer(NULL, CAPACITY)
                let_go(other)
                n_buffers += 1
            other = spare
            spare = fresh
        size = c_recv(fd, address(spare), max_bytes, MSG_DONTWAIT)
        if size > 0:
            n_receives += 1
            fastgw_fill(spare, size)
            return <bytes>spare
        if size == 0:
            n_receives += 1
            return b""
        interrupted()


cdef Py_ssize_t receive(int fd, char *into, Py_ssize_t size) except -1:
    """What is there, into memory of the caller's; 0 at the end of the stream."""
    global n_receives
    cdef ssize_t got
    while True:
        got = c_recv(fd, into, size, MSG_DONTWAIT)
        if got >= 0:
            n_receives += 1
            return got
        interrupted()


cpdef Py_ssize_t send(int fd, bytes data) except -1:
    """How many bytes the kernel took."""
    return say(fd, data, MSG_NOSIGNAL | MSG_DONTWAIT)


cpdef Py_ssize_t send_last(int fd, bytes data) except -1:
    """The same, for what our end follows at once: it leaves with that."""
    return say(fd, data, MSG_NOSIGNAL | MSG_DONTWAIT | MSG_MORE)


cdef inline Py_ssize_t say(int fd, bytes data, int flags) except -1:
    global n_sends
    cdef ssize_t size
    if data is None:
        raise TypeError("a bytes-like object is required, not 'NoneType'")
    while True:
        size = c_send(fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), flags)
        if size >= 0:
            n_sends += 1
            return size
        interrupted()


cpdef Py_ssize_t send_from(int fd, bytes data, Py_ssize_t start) except -1:
    """How many bytes of ``data[start:]`` the kernel took."""
    global n_sends
    cdef ssize_t size
    if data is None:
        raise TypeError("a bytes-like object is required, not 'NoneType'")
    if not 0 <= start <= PyBytes_GET_SIZE(data):
        raise ValueError("start is not within data")
    while True:
        size = c_send(fd, PyBytes_AS_STRING(data) + start, PyBytes_GET_SIZE(data) - start, MSG_NOSIGNAL | MSG_DONTWAIT)
        if size >= 0:
            n_sends += 1
            return size
        interrupted()


cpdef Py_ssize_t send_both(int fd, bytes first, bytes second, Py_ssize_t start=0) except -1:
    """How many bytes of ``first`` and ``second[start:]``, one behind the other, the kernel took."""
    global n_sends
    cdef ssize_t size
    if first is None or second is None:
        raise TypeError("a bytes-like object is required, not 'NoneType'")
    if not 0 <= start <= PyBytes_GET_SIZE(second):
        raise ValueError("start is not within data")
    while True:
        size = fastgw_send_both(
            fd, PyBytes_AS_STRING(first), PyBytes_GET_SIZE(first), PyBytes_AS_STRING(second) + start, PyBytes_GET_SIZE(second) - start
        )
        if size >= 0:
            n_sends += 1
            return size
        interrupted()


cpdef bytes keep(bytes data, Py_ssize_t start=0):
    """``data[start:]`` for longer than until the next ``recv``, in no more memory than it needs."""
    global n_copies, n_copied_bytes
    cdef Py_ssize_t size
    if data is None:
        raise TypeError("expected bytes, not None")
    size = PyBytes_GET_SIZE(data)
    if start == 0 and (size >= WORTH_COPYING or (<PyObject *>data != spare and <PyObject *>data != other)):
        return data
    if start < 0:
        start = max(start + size, 0)
    size = size - start if start < size else 0
    n_copies += 1
    n_copied_bytes += size
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + start if size else NULL, size)


cpdef bint unread(int fd) noexcept:
    """Whether the kernel holds bytes that have not been read."""
    return fastgw_queued(fd, FIONREAD) != 0


cpdef Py_ssize_t unacknowledged(int fd) noexcept:
    """Bytes in the kernel that the peer has not acknowledged (TCP) or read (Unix sockets)."""
    cdef int count = fastgw_queued(fd, TIOCOUTQ)
    return count if count > 0 else 0


def counters():
    """What the calls have done since ``reset_counters``."""
    return {
        "copies": n_copies, "copied_bytes": n_copied_bytes, "receives": n_receives, "sends": n_sends, "buffers": n_buffers
    }


def reset_counters():
    """Start again at 0."""
    global n_copies, n_copied_bytes, n_receives, n_sends, n_buffers
    n_copies = n_copied_bytes = n_receives = n_sends = n_buffers = 0
