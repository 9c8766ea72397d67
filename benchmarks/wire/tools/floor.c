// floor: what a proxy costs that does nothing. One connection to the engine for each client's, bytes copied both ways.
//
//   floor LISTEN_PORT ENGINE_PORT
//
// One thread, epoll, loopback only. It parses nothing, so it cannot check a key, choose an engine or keep fewer connections
// than it has clients: no gateway can do its work for less than this. Where a socket is full, the rest of what was read waits
// in a buffer of that side and the other side is not read meanwhile. When either side ends, both are closed.
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_FD 65536
#define READ_BYTES 65536

typedef struct {
  int open, peer;       // peer: the fd that this one's bytes go to
  char *waiting;        // bytes for this fd that it did not take yet
  size_t len, from;
} side;

static side sides[MAX_FD];
static int ep;

static struct sockaddr_in loopback(int port) {
  return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void watch(int fd, int op, uint32_t what) {
  struct epoll_event e = {.events = what, .data.fd = fd};
  epoll_ctl(ep, op, fd, &e);
}

static void open_side(int fd, int peer) {
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  sides[fd] = (side){.open = 1, .peer = peer};
  watch(fd, EPOLL_CTL_ADD, EPOLLIN);
}

static void close_side(int fd) {
  free(sides[fd].waiting);
  sides[fd] = (side){0};
  close(fd);
}

static void close_both(int fd) {
  int peer = sides[fd].peer;
  close_side(fd);
  close_side(peer);
}

static void accept_all(int listener, int engine_port) {
  struct sockaddr_in engine = loopback(engine_port);
  int client;
  while ((client = accept4(listener, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
    int upstream = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    // On loopback a connection stands when connect returns: nothing is waited for, and nobody is kept waiting.
    if (client >= MAX_FD || upstream < 0 || upstream >= MAX_FD || connect(upstream, (void *)&engine, sizeof engine)) {
      close(client);
      if (upstream >= 0) close(upstream);
      continue;
    }
    open_side(client, upstream);
    open_side(upstream, client);
  }
}

// Send what is given; how much the socket took, or -1 when it is gone.
static ssize_t push(int fd, const char *p, size_t n) {
  ssize_t sent = send(fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
  return sent < 0 && errno == EAGAIN ? 0 : sent;
}

static void readable(int fd) {
  static char in[READ_BYTES];
  int to = sides[fd].peer;
  ssize_t n = recv(fd, in, sizeof in, MSG_DONTWAIT);
  if (n < 0 && errno == EAGAIN) return;
  ssize_t sent = n > 0 ? push(to, in, (size_t)n) : -1;
  if (sent < 0) {
    close_both(fd);
  } else if (sent < n) {
    side *s = &sides[to];
    s->len = (size_t)(n - sent);
    s->from = 0;
    s->waiting = malloc(s->len);
    memcpy(s->waiting, in + sent, s->len);
    watch(to, EPOLL_CTL_MOD, (sides[fd].waiting ? 0 : EPOLLIN) | EPOLLOUT);
    watch(fd, EPOLL_CTL_MOD, sides[fd].waiting ? EPOLLOUT : 0);
  }
}

static void writable(int fd) {
  side *s = &sides[fd], *other = &sides[s->peer];
  if (!s->waiting) return;
  ssize_t sent = push(fd, s->waiting + s->from, s->len - s->from);
  if (sent < 0) {
    close_both(fd);
    return;
  }
  s->from += (size_t)sent;
  if (s->from < s->len) return;
  free(s->waiting);
  s->waiting = 0;
  watch(fd, EPOLL_CTL_MOD, other->waiting ? 0 : EPOLLIN);
  watch(s->peer, EPOLL_CTL_MOD, EPOLLIN | (other->waiting ? EPOLLOUT : 0));
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: floor LISTEN_PORT ENGINE_PORT\n");
    return 2;
  }
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  signal(SIGPIPE, SIG_IGN);
  int one = 1, engine_port = atoi(argv[2]);
  struct sockaddr_in here = loopback(atoi(argv[1]));
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (void *)&here, sizeof here) || listen(listener, 4096)) {
    perror("floor");
    return 1;
  }
  ep = epoll_create1(EPOLL_CLOEXEC);
  watch(listener, EPOLL_CTL_ADD, EPOLLIN);
  static struct epoll_event ready[1024];
  for (;;) {
    int k = epoll_wait(ep, ready, 1024, -1);
    for (int i = 0; i < k; i++) {
      int fd = ready[i].data.fd;
      uint32_t what = ready[i].events;
      if (fd == listener) {
        accept_all(listener, engine_port);
        continue;
      }
      if (sides[fd].open && what & EPOLLOUT) writable(fd);
      // An end or an error is reported even to a side that is not read: its bytes have nowhere to go.
      if (sides[fd].open && what & (EPOLLHUP | EPOLLERR) && !(what & EPOLLIN)) close_both(fd);
      else if (sides[fd].open && what & EPOLLIN) readable(fd);
    }
  }
}
