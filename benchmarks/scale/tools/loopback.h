// What the tools in this folder share: the clock, a dial from a chosen loopback address, the request, the first complaint.
#pragma once
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uint64_t bad;
static char first_bad[160];

static inline uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static inline void wrong(const char *what) {
  bad++;
  if (*first_bad) return;
  snprintf(first_bad, sizeof first_bad, "%.150s", what);
  for (char *p = first_bad; *p; p++)  // it is printed inside a JSON string
    if (*p < ' ' || *p > '~' || *p == '"' || *p == '\\') *p = '?';
}

// Die with the parent, and take every descriptor that the system gives.
static inline void begin(void) {
  struct rlimit r;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  signal(SIGPIPE, SIG_IGN);
  if (!getrlimit(RLIMIT_NOFILE, &r)) {
    r.rlim_cur = r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
  }
}

// A connection under way to 127.0.0.1; -1 with a complaint where there is none. `source`, in host order, 0 for any.
static inline int dial(int port, uint32_t source) {
  int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    wrong(strerror(errno));
    return -1;
  }
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (source) {
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source)};
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(fd, (void *)&from, sizeof from)) wrong(strerror(errno));
  }
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (connect(fd, (void *)&to, sizeof to) && errno != EINPROGRESS) {
    wrong(strerror(errno));
    close(fd);
    return -1;
  }
  return fd;
}

// Closed with RST: nothing waits, on either side, for late packets, so ports are free again at once.
static inline void reset(int fd) {
  struct linger at_once = {.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close(fd);
}

// The size and the headers of what an OpenAI SDK sends.
static inline size_t compose(char *out, size_t room, int port, const char *key, const char *model, int stream) {
  char body[256];
  int n = snprintf(body, sizeof body, "{\"model\":\"%s\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello \"}],\"max_tokens\":64,\"temperature\":0.7,\"stream\":%s}",
                   model, stream ? "true" : "false");
  return (size_t)snprintf(out, room,
                          "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"
                          "Accept: application/json\r\nUser-Agent: OpenAI/Python 1.99.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Package-Version: 1.99.0\r\n"
                          "X-Stainless-Runtime: CPython\r\nContent-Length: %d\r\n\r\n%s",
                          port, key, n, body);
}
