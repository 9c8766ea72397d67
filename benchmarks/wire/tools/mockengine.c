// mockengine: an OpenAI-shaped HTTP/1.1 engine that costs next to nothing, so that what stands in front of it is measured.
//
//   mockengine [--port 0] [--events 32] [--interval-us 0] [--think-us 0] [--payload 24]
//
// One thread, epoll, loopback only. Prints {"listening":PORT} once it listens, and ends with its parent.
//   GET                     200, a small JSON object (/v1/models: a list with the model "m"; /accepted: the connections it has
//                           accepted since it began, which is how often what stands in front of it has dialled)
//   POST                    200, one JSON answer with a Content-Length
//   POST, "stream":true     200, chunked SSE: `events` events, a usage event where it is asked for, [DONE]; one send per event
// A prompt that holds "#unpaced" is answered as fast as it leaves: the streams take turns, one event each, without a pause.
// Any other stream's first event is due `think-us` after the request, each later one `interval-us` after the one before, by the
// clock and not by the last send. Every event's text begins with the sender's CLOCK_MONOTONIC in ns: events differ in
// their text and in nothing else, as an engine's do, and a client on the same machine reads its one-way latency.
// Of a long body with a Content-Length only the first and the last bytes are looked at; the kernel throws the middle away
// uncopied, so that a long prompt costs what is measured and not the engine. "stream" and the rest must stand in those.
// It is no HTTP server: it trusts its peer, and must never listen beyond loopback.
#define _GNU_SOURCE
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
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_FD 65536
#define MAX_PAYLOAD 4096
#define OUT_BYTES 12288  // one event at its largest, or a response head and a plain answer
#define MAX_IN (64 << 20)
#define EDGE_BYTES 4096  // of a long body, looked at on either side

typedef struct {
  int open, streaming, unpaced, want_out, left, serial, wants_usage;
  uint64_t due_ns;  // when the stream's next event is to leave
  char *in;
  size_t in_len, in_cap;
  size_t skip, skipped;  // bytes of this body to be thrown away: still to come, and in all
  char out[OUT_BYTES];
  size_t out_len, out_sent;
} conn;

static conn *conns[MAX_FD];
static int ep, events = 32, payload = 24;
static unsigned long long accepted;
static uint64_t interval_ns, think_ns;
static char filler[MAX_PAYLOAD];

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

// A binary heap of the streams that wait for their time, and where each stands in it (-1: nowhere).
static int heap[MAX_FD], heap_len, place[MAX_FD];
static int earlier(int a, int b) { return conns[heap[a]]->due_ns < conns[heap[b]]->due_ns; }
static void swap(int a, int b) {
  int fd = heap[a];
  heap[a] = heap[b];
  heap[b] = fd;
  place[heap[a]] = a;
  place[heap[b]] = b;
}
static void rise(int i) {
  for (; i && earlier(i, (i - 1) / 2); i = (i - 1) / 2) swap(i, (i - 1) / 2);
}
static void sink(int i) {
  for (;;) {
    int l = 2 * i + 1, least = i;
    if (l < heap_len && earlier(l, least)) least = l;
    if (l + 1 < heap_len && earlier(l + 1, least)) least = l + 1;
    if (least == i) return;
    swap(i, least);
    i = least;
  }
}
static void heap_add(int fd) {
  heap[heap_len] = fd;
  place[fd] = heap_len;
  rise(heap_len++);
}
static void heap_remove(int fd) {
  int i = place[fd];
  if (i < 0) return;
  if (i != --heap_len) {
    swap(i, heap_len);
    rise(i);
    sink(i);
  }
  place[fd] = -1;
}

static void interest(int fd, int out) {
  if (conns[fd]->want_out == out) return;
  conns[fd]->want_out = out;
  struct epoll_event e = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.fd = fd};
  epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e);
}

static void drop(int fd) {
  heap_remove(fd);
  conns[fd]->open = conns[fd]->streaming = 0;
  close(fd);
}

// 1: everything left; 0: the socket is full; -1: the connection is gone
static int flush(int fd) {
  conn *c = conns[fd];
  while (c->out_sent < c->out_len) {
    ssize_t n = send(fd, c->out + c->out_sent, c->out_len - c->out_sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN) {
      interest(fd, 1);
      return 0;
    }
    if (n < 0) {
      drop(fd);
      return -1;
    }
    c->out_sent += (size_t)n;
  }
  c->out_len = c->out_sent = 0;
  interest(fd, 0);
  return 1;
}

static void put(conn *c, const char *p, size_t n) {
  memcpy(c->out + c->out_len, p, n);
  c->out_len += n;
}

static void put_chunk(conn *c, const char *p, int n) {
  char size[16];
  put(c, size, (size_t)snprintf(size, sizeof size, "%x\r\n", (unsigned)n));
  put(c, p, (size_t)n);
  put(c, "\r\n", 2);
}

#define CHUNK_HEAD "data: {\"id\":\"chatcmpl-%d\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\","

static void put_event(conn *c) {
  char b[MAX_PAYLOAD + 512];
  put_chunk(c, b, snprintf(b, sizeof b, CHUNK_HEAD "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%llu%.*s\"},\"finish_reason\":null}]}\n\n",
                           c->serial, (unsigned long long)now_ns(), payload, filler));
}

static void put_end(conn *c) {
  char b[512];
  if (c->wants_usage)
    put_chunk(c, b, snprintf(b, sizeof b, CHUNK_HEAD "\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\n",
                           c->serial, events, events + 7));
  put_chunk(c, "data: [DONE]\n\n", 14);
  put(c, "0\r\n\r\n", 5);
}

static void serve(int fd);

// Send what is due; come back by the heap for what is not yet, by EPOLLOUT when the socket is full.
static void pump(int fd) {
  conn *c = conns[fd];
  if (c->out_len && flush(fd) < 1) return;
  while (c->streaming) {
    if (c->due_ns > now_ns()) {
      heap_add(fd);
      return;
    }
    if (c->left-- > 0) {
      put_event(c);
      c->due_ns += interval_ns;
    } else {
      put_end(c);
      c->streaming = 0;
    }
    if (flush(fd) < 1) return;
    if (c->unpaced && c->streaming) {  // the other streams' turn
      c->due_ns = now_ns();
      heap_add(fd);
      return;
    }
  }
  if (c->in_len) serve(fd);  // a request that was sent before its predecessor's answer ended
}

static void answer_get(conn *c) {
  static const char models[] = "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"created\":1700000000,\"owned_by\":\"mock\"}]}";
  char b[512], count[64];
  snprintf(count, sizeof count, "{\"accepted\":%llu}", accepted);
  const char *body = !strncmp(c->in, "GET /v1/models", 14) ? models : !strncmp(c->in, "GET /accepted ", 14) ? count : "{}";
  put(c, b, (size_t)snprintf(b, sizeof b, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s", strlen(body), body));
}

static void answer_plain(conn *c) {
  char b[MAX_PAYLOAD + 512], h[256];
  int n = snprintf(b, sizeof b,
                   "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":"
                   "{\"role\":\"assistant\",\"content\":\"%.*s\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":16,"
                   "\"total_tokens\":23}}",
                   payload, filler);
  put(c, h, (size_t)snprintf(h, sizeof h, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nserver: mock\r\ndate: Fri, 20 Nov 2026 10:00:00 GMT\r\ncontent-length: %d\r\n\r\n", n));
  put(c, b, (size_t)n);
}

static void answer_stream(conn *c) {
  static const char h[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nserver: mock\r\ntransfer-encoding: chunked\r\n\r\n";
  put(c, h, sizeof h - 1);
  c->streaming = 1;
  c->left = events;
  c->serial++;
  c->due_ns = now_ns() + think_ns;
}

// Whether the text stands in the body: anywhere in a short one, at either edge of a long one.
static int says(const char *body, size_t n, const char *text) {
  size_t k = strlen(text);
  if (n <= 2 * EDGE_BYTES) return memmem(body, n, text, k) != 0;
  return memmem(body, EDGE_BYTES, text, k) || memmem(body + n - EDGE_BYTES, EDGE_BYTES, text, k);
}

static void serve(int fd) {
  conn *c = conns[fd];
  while (c->open && !c->streaming) {
    char *end = c->in_len ? memmem(c->in, c->in_len, "\r\n\r\n", 4) : 0;
    if (!end) return;
    size_t head = (size_t)(end - c->in) + 4, total = head;
    *end = 0;
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    int chunked = strcasestr(c->in, "\r\ntransfer-encoding: chunked") != 0;
    *end = '\r';
    if (length) total += strtoul(length + 17, 0, 10) - c->skipped;
    if (chunked) {  // a JSON body holds no CRLF, so that the terminal chunk cannot be met inside it
      char *z = memmem(c->in + head, c->in_len - head, "0\r\n\r\n", 5);
      if (!z) return;
      total = (size_t)(z - c->in) + 5;
    }
    if (c->in_len < total) {
      if (length && c->in_len > head + EDGE_BYTES && total - c->in_len > 2 * EDGE_BYTES) c->skip = c->skipped = total - c->in_len - EDGE_BYTES;
      return;
    }
    c->skipped = 0;
    int post = !memcmp(c->in, "POST ", 5);
    if (!post && memcmp(c->in, "GET ", 4)) {  // an HTTP/2 preface among others: say no as HTTP/1.1 engines do
      put(c, "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", 66);
      if (flush(fd) >= 0) drop(fd);
      return;
    }
    const char *body = c->in + head;
    size_t n = total - head;
    if (!post)
      answer_get(c);
    else if (says(body, n, "\"stream\":true") || says(body, n, "\"stream\": true")) {
      c->unpaced = says(body, n, "#unpaced");
      c->wants_usage = says(body, n, "\"include_usage\":true");
      answer_stream(c);
    } else
      answer_plain(c);
    memmove(c->in, c->in + total, c->in_len - total);
    c->in_len -= total;
    if (flush(fd) < 1) return;
    if (c->streaming) pump(fd);
  }
}

static void readable(int fd) {
  conn *c = conns[fd];
  if (c->in_len == c->in_cap) {
    char *more = c->in_cap < MAX_IN ? realloc(c->in, c->in_cap * 2) : 0;
    if (!more) {
      drop(fd);
      return;
    }
    c->in = more;
    c->in_cap *= 2;
  }
  // With MSG_TRUNC, TCP takes bytes from the socket and copies none.
  ssize_t n = c->skip ? recv(fd, 0, c->skip, MSG_TRUNC) : recv(fd, c->in + c->in_len, c->in_cap - c->in_len, 0);
  if (n == 0 || (n < 0 && errno != EAGAIN)) {
    drop(fd);
  } else if (n > 0 && c->skip) {
    c->skip -= (size_t)n;
  } else if (n > 0) {
    c->in_len += (size_t)n;
    if (!c->out_len) serve(fd);  // else the answer before it is still leaving: EPOLLOUT comes back here
  }
}

static void accept_all(int listener) {
  int s, one = 1;
  while ((s = accept4(listener, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
    if (s >= MAX_FD) {
      close(s);
      continue;
    }
    if (!conns[s]) {
      conns[s] = calloc(1, sizeof(conn));
      conns[s]->in = malloc(conns[s]->in_cap = 65536);
    }
    conn *c = conns[s];
    accepted++;
    c->open = 1;
    c->skip = c->skipped = 0;
    c->streaming = c->want_out = 0;
    c->in_len = c->out_len = c->out_sent = 0;
    place[s] = -1;
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = s};
    epoll_ctl(ep, EPOLL_CTL_ADD, s, &e);
  }
}

static int options(int argc, char **argv) {
  static const struct option known[] = {{"port", 1, 0, 'p'}, {"events", 1, 0, 'e'}, {"interval-us", 1, 0, 'i'}, {"think-us", 1, 0, 't'}, {"payload", 1, 0, 'l'}, {0, 0, 0, 0}};
  int port = 0, o;
  while ((o = getopt_long(argc, argv, "", known, 0)) != -1) {
    long v = optarg ? atol(optarg) : -1;
    if (o == '?' || v < 0 || (o == 'l' && v > MAX_PAYLOAD)) {
      fprintf(stderr, "usage: mockengine [--port N] [--events N] [--interval-us N] [--think-us N] [--payload 0..%d]\n", MAX_PAYLOAD);
      exit(2);
    }
    if (o == 'p') port = (int)v;
    if (o == 'e') events = (int)v;
    if (o == 'i') interval_ns = (uint64_t)v * 1000;
    if (o == 't') think_ns = (uint64_t)v * 1000;
    if (o == 'l') payload = (int)v;
  }
  return port;
}

int main(int argc, char **argv) {
  int port = options(argc, argv), one = 1;
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  signal(SIGPIPE, SIG_IGN);
  memset(filler, 'x', sizeof filler);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof a;
  if (bind(listener, (void *)&a, sizeof a) || listen(listener, 4096) || getsockname(listener, (void *)&a, &size)) {
    perror("mockengine");
    return 1;
  }
  // A timerfd, for epoll's own timeout is in whole milliseconds: too coarse to pace streams by, or a busy loop.
  int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  uint64_t armed = 0;
  ep = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, te = {.events = EPOLLIN, .data.fd = timer};
  epoll_ctl(ep, EPOLL_CTL_ADD, listener, &e);
  epoll_ctl(ep, EPOLL_CTL_ADD, timer, &te);
  printf("{\"listening\":%d}\n", ntohs(a.sin_port));
  fflush(stdout);
  static struct epoll_event ready[1024];
  for (;;) {
    int behind = heap_len && conns[heap[0]]->due_ns <= now_ns();
    if (heap_len && !behind && conns[heap[0]]->due_ns != armed) {
      armed = conns[heap[0]]->due_ns;
      struct itimerspec at = {.it_value = {.tv_sec = (time_t)(armed / 1000000000ull), .tv_nsec = (long)(armed % 1000000000ull)}};
      timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, 0);
    }
    int k = epoll_wait(ep, ready, 1024, behind ? 0 : -1);
    for (int i = 0; i < k; i++) {
      int fd = ready[i].data.fd;
      if (fd == listener) {
        accept_all(listener);
        continue;
      }
      if (fd == timer) {
        uint64_t fired;
        if (read(timer, &fired, sizeof fired) > 0) armed = 0;
        continue;
      }
      if (conns[fd]->open && ready[i].events & EPOLLOUT && flush(fd) > 0) {
        if (!conns[fd]->streaming) serve(fd);
        else if (place[fd] < 0) pump(fd);
      }
      if (conns[fd]->open && ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(fd);
    }
    uint64_t turn = now_ns();  // not asked again: an unpaced stream is due at once, and must not keep the sockets waiting
    while (heap_len && conns[heap[0]]->due_ns <= turn) {
      int fd = heap[0];
      heap_remove(fd);
      pump(fd);
    }
  }
}
