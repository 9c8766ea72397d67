// Counts the calls of a process that move bytes or wait for them, by descriptor: preloaded into it, read by a test from a
// file that both map. Every call counts, whatever it returns.
//
//   SYSCALLS_FILE=counts LD_PRELOAD=./syscalls.so program
//
// The file holds uint64_t[KINDS][FDS] in the order of KINDS below; calls on higher descriptors count for the last one.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS 1024
enum { RECEIVE, SEND, WAIT, LOOK, CONTROL, IOCTL, KINDS };  // a look is a poll that does not wait

static uint64_t (*counts)[FDS];

__attribute__((constructor)) static void begin(void) {
  const char *name = getenv("SYSCALLS_FILE");
  int fd = name ? open(name, O_RDWR) : -1;
  if (fd < 0) return;
  void *map = mmap(0, sizeof(uint64_t[KINDS][FDS]), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (map != MAP_FAILED) counts = map;
}

static inline void count(int kind, int fd) {
  if (counts && fd >= 0) __atomic_fetch_add(&counts[kind][fd < FDS ? fd : FDS - 1], 1, __ATOMIC_RELAXED);
}

#define COUNTED(kind, type, name, declared, passed)        \
  type name declared {                                     \
    static type(*real) declared;                           \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name);  \
    count(kind, fd);                                       \
    return real passed;                                    \
  }

COUNTED(RECEIVE, ssize_t, read, (int fd, void *to, size_t size), (fd, to, size))
COUNTED(RECEIVE, ssize_t, readv, (int fd, const struct iovec *to, int n), (fd, to, n))
COUNTED(RECEIVE, ssize_t, recv, (int fd, void *to, size_t size, int flags), (fd, to, size, flags))
COUNTED(RECEIVE, ssize_t, recvmsg, (int fd, struct msghdr *to, int flags), (fd, to, flags))
COUNTED(RECEIVE, ssize_t, recvfrom, (int fd, void *to, size_t size, int flags, struct sockaddr *from, socklen_t *len),
        (fd, to, size, flags, from, len))
COUNTED(SEND, ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
COUNTED(SEND, ssize_t, writev, (int fd, const struct iovec *data, int n), (fd, data, n))
COUNTED(SEND, ssize_t, send, (int fd, const void *data, size_t size, int flags), (fd, data, size, flags))
COUNTED(SEND, ssize_t, sendmsg, (int fd, const struct msghdr *data, int flags), (fd, data, flags))
COUNTED(SEND, ssize_t, sendto, (int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t len),
        (fd, data, size, flags, to, len))
COUNTED(ms ? WAIT : LOOK, int, epoll_wait, (int fd, struct epoll_event *events, int n, int ms), (fd, events, n, ms))
COUNTED(ms ? WAIT : LOOK, int, epoll_pwait, (int fd, struct epoll_event *events, int n, int ms, const sigset_t *set),
        (fd, events, n, ms, set))
COUNTED(CONTROL, int, epoll_ctl, (int fd, int what, int on, struct epoll_event *event), (fd, what, on, event))

int ioctl(int fd, unsigned long what, ...) {
  static int (*real)(int, unsigned long, void *);
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "ioctl");
  va_list rest;
  va_start(rest, what);
  void *argument = va_arg(rest, void *);
  va_end(rest);
  count(IOCTL, fd);
  return real(fd, what, argument);
}

// What is called past the library's own wrappers, which say that a thread may be cancelled there.
long syscall(long number, ...) {
  static long (*real)(long, long, long, long, long, long, long);
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "syscall");
  long a[6];
  va_list rest;
  va_start(rest, number);
  for (int at = 0; at < 6; at++) a[at] = va_arg(rest, long);
  va_end(rest);
  int fd = (int)a[0];
  if (number == SYS_recvfrom) count(RECEIVE, fd);
  if (number == SYS_sendto) count(SEND, fd);
#ifdef SYS_epoll_wait
  if (number == SYS_epoll_wait) count((int)a[3] ? WAIT : LOOK, fd);
#endif
  if (number == SYS_epoll_pwait) count((int)a[3] ? WAIT : LOOK, fd);
  return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
