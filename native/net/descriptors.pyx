"""Compiled twin of fastgw/net/descriptors.py: the system calls themselves, and no object of a socket."""

from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, errno

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <arpa/inet.h>
    #include <netinet/in.h>
    #include <string.h>
    #include <sys/socket.h>
    #include <unistd.h>

    /* The peer's address in words (64 bytes of room), "unix" where it has none; of IPv4 the address itself, and no words.
       The descriptor, or -1. */
    static int fastgw_accept(int listening, char *text, struct in_addr *four) {
        struct sockaddr_storage peer;
        socklen_t size = sizeof peer;
        int fd = accept4(listening, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return fd;
        if (peer.ss_family == AF_INET) {
            *four = ((struct sockaddr_in *)&peer)->sin_addr;
            text[0] = 0;
        } else if (peer.ss_family == AF_INET6) {
            const struct in6_addr *address = &((struct sockaddr_in6 *)&peer)->sin6_addr;
            if (IN6_IS_ADDR_V4MAPPED(address))
                inet_ntop(AF_INET, address->s6_addr + 12, text, 64);
            else
                inet_ntop(AF_INET6, address, text, 64);  /* without a zone, as the interpreter tells it */
        } else {
            strcpy(text, "unix");
        }
        return fd;
    }

    static const char *fastgw_words(const struct in_addr *four, char *text) {
        return inet_ntop(AF_INET, four, text, 64);
    }

    static int fastgw_dial_error(int fd, int *code) {
        socklen_t size = sizeof *code;
        return getsockopt(fd, SOL_SOCKET, SO_ERROR, code, &size);
    }

    static int fastgw_reset_on_close(int fd) {
        struct linger linger = {1, 0};
        return setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    }
    """
    struct in_addr:
        unsigned int s_addr
    int fastgw_accept(int listening, char *text, in_addr *four)
    const char *fastgw_words(const in_addr *four, char *text)
    int fastgw_dial_error(int fd, int *code)
    int fastgw_reset_on_close(int fd)
    int c_close "close"(int fd)
    int c_shutdown "shutdown"(int fd, int how)
    int SHUT_WR


# Putting an address into words takes libc as long as all else of an accept takes us: who came last mostly comes again.
cdef unsigned int last_address = 0
cdef str last_words = "0.0.0.0"


cpdef tuple accept(object listening):
    """The next connection on a listening socket, and the address that it comes from; None = nobody waits."""
    global last_address, last_words
    cdef char text[64]
    cdef in_addr four
    cdef int fd = fastgw_accept(listening.fileno(), text, &four)
    if fd < 0:
        if errno == EAGAIN or errno == EINTR or errno == ECONNABORTED:
            return None
        PyErr_SetFromErrno(OSError)
    if text[0]:
        return fd, text.decode("ascii")
    if four.s_addr != last_address:
        fastgw_words(&four, text)
        last_words = text.decode("ascii")
        last_address = four.s_addr
    return fd, last_words


cpdef close(int fd):
    """Give ``fd`` back."""
    # (EINTR: it is closed all the same, and its number may be somebody else's by now.)
    if c_close(fd) < 0 and errno != EINTR:
        PyErr_SetFromErrno(OSError)


cpdef finish(int fd):
    """Close our side: the peer reads an end."""
    if c_shutdown(fd, SHUT_WR) < 0:
        PyErr_SetFromErrno(OSError)


cpdef abort(int fd):
    """Give ``fd`` back, and tell the peer by an RST that what it has is not complete."""
    fastgw_reset_on_close(fd)
    close(fd)


cpdef int dial_error(int fd) except -2:
    """How a dial went: 0, or the error number."""
    cdef int code = 0
    if fastgw_dial_error(fd, &code) < 0:
        PyErr_SetFromErrno(OSError)
    return code
