// h2engine: the mock engine over HTTP/2 with prior knowledge, so that what an h2 upstream costs is measured, and not the engine.
//
//   h2engine [--port 0] [--events 32] [--interval-us 0] [--think-us 0] [--payload 24] [--streams 1024] [--window 1048576]
//
// One thread, epoll, loopback only. Prints {"listening":PORT} once it listens, and ends with its parent. Its answers are those of
// mockengine.c, byte for byte, and so are their times; what is said there of prompts and paces holds here.
//   a request without a body    200, a small JSON object (/v1/models: a list with the model "m")
//   a request with one          200, one JSON answer with a content-length; with "stream":true, events, a DATA frame each
// What one turn of the loop has to say on a connection leaves with one send, frames of many streams together, as servers do that
// are worth a comparison. An event waits for its stream's window and the connection's; flow control is honoured both ways, with
// windows of --window bytes for what comes. --streams is its MAX_CONCURRENT_STREAMS.
// Header blocks are not decoded: a request is a POST when it has a body, and of its path only a literal is found.
// Over HTTP/1.1 it answers GET, for health checks and for /accepted: the connections it has accepted since it began.
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
#define MAX_LIVE 65536    // streams, over all connections
#define IN_BYTES 65536    // several frames; the longest that a peer may send is 16,393 bytes
#define EDGE_BYTES 4096   // of a body, kept of either end
#define FULL_BYTES 262144 // unsent: no stream of the connection says more until they have left
#define BUCKETS 1024

enum frame { DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4, PADDED = 8 };

typedef struct stream {
  struct stream *next;  // in its bucket, or among the free ones
  int fd, id, streaming, unpaced, left, serial, wants_usage, answered, last, waits, place, path;
  int64_t window;
  uint64_t due_ns;  // when the next event is to leave
  uint32_t taken;   // of the body, since the last WINDOW_UPDATE
  size_t text_len, text_sent, body_len;
  char text[MAX_PAYLOAD + 512], body[2 * EDGE_BYTES];
} stream;

typedef struct {
  int open, want_out, preface, h1, live, dirty, blocked, headers_of;
  int64_t window;
  uint32_t first_window, taken;
  size_t in_len, out_len, out_sent, out_cap;
  char *out, in[IN_BYTES];
  stream *bucket[BUCKETS];
} conn;

static conn *conns[MAX_FD];
static stream *spare;
static int ep, events = 32, payload = 24, most_streams = 1024, window_bytes = 1 << 20, live;
static int dirty[MAX_FD], dirty_len;
static unsigned long long accepted;
static uint64_t interval_ns, think_ns;
static char filler[MAX_PAYLOAD], plain[MAX_PAYLOAD + 512];
static int plain_len;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

// A binary heap of the streams that wait for their time; place is where each stands in it (-1: nowhere).
static stream *heap[MAX_LIVE];
static int heap_len;
static void swap(int a, int b) {
  stream *s = heap[a];
  heap[a] = heap[b];
  heap[b] = s;
  heap[a]->place = a;
  heap[b]->place = b;
}
static void rise(int i) {
  for (; i && heap[i]->due_ns < heap[(i - 1) / 2]->due_ns; i = (i - 1) / 2) swap(i, (i - 1) / 2);
}
static void sink(int i) {
  for (;;) {
    int l = 2 * i + 1, least = i;
    if (l < heap_len && heap[l]->due_ns < heap[least]->due_ns) least = l;
    if (l + 1 < heap_len && heap[l + 1]->due_ns < heap[least]->due_ns) least = l + 1;
    if (least == i) return;
    swap(i, least);
    i = least;
  }
}
static void heap_add(stream *s) {
  heap[heap_len] = s;
  s->place = heap_len;
  rise(heap_len++);
}
static void heap_remove(stream *s) {
  int i = s->place;
  if (i < 0) return;
  if (i != --heap_len) {
    swap(i, heap_len);
    rise(i);
    sink(i);
  }
  s->place = -1;
}

static stream *find(conn *c, int id) {
  stream *s = c->bucket[(id >> 1) % BUCKETS];
  while (s && s->id != id) s = s->next;
  return s;
}

static stream *begin(conn *c, int fd, int id) {
  stream *s = spare;
  if (live == MAX_LIVE) return 0;
  if (s) spare = s->next;
  else s = malloc(sizeof *s);
  s->fd = fd;
  s->id = id;
  s->streaming = s->answered = s->last = s->waits = s->path = 0;
  s->place = -1;
  s->window = c->first_window;
  s->taken = 0;
  s->text_len = s->text_sent = s->body_len = 0;
  s->next = c->bucket[(id >> 1) % BUCKETS];
  c->bucket[(id >> 1) % BUCKETS] = s;
  c->live++;
  live++;
  return s;
}

static void end(conn *c, stream *s) {
  stream **at = &c->bucket[(s->id >> 1) % BUCKETS];
  while (*at != s) at = &(*at)->next;
  *at = s->next;
  heap_remove(s);
  s->next = spare;
  spare = s;
  c->live--;
  live--;
}

static void interest(int fd, int out) {
  if (conns[fd]->want_out == out) return;
  conns[fd]->want_out = out;
  struct epoll_event e = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.fd = fd};
  epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e);
}

static void drop(int fd) {
  conn *c = conns[fd];
  for (int i = 0; i < BUCKETS && c->live; i++)
    while (c->bucket[i]) end(c, c->bucket[i]);
  c->open = 0;
  close(fd);
}

static char *room(int fd, size_t n) {
  conn *c = conns[fd];
  if (c->out_len + n > c->out_cap) {
    while (c->out_len + n > c->out_cap) c->out_cap *= 2;
    c->out = realloc(c->out, c->out_cap);
  }
  if (!c->dirty) {
    c->dirty = 1;
    dirty[dirty_len++] = fd;
  }
  c->out_len += n;
  return c->out + c->out_len - n;
}

static void number(char *p, uint32_t v) {
  p[0] = (char)(v >> 24), p[1] = (char)(v >> 16), p[2] = (char)(v >> 8), p[3] = (char)v;
}
static uint32_t read_number(const char *p) {
  const unsigned char *u = (const unsigned char *)p;
  return (uint32_t)u[0] << 24 | (uint32_t)u[1] << 16 | (uint32_t)u[2] << 8 | u[3];
}

static void frame(int fd, int type, int flags, int id, const void *p, size_t n) {
  char *f = room(fd, 9 + n);
  f[0] = (char)(n >> 16), f[1] = (char)(n >> 8), f[2] = (char)n, f[3] = (char)type, f[4] = (char)flags;
  number(f + 5, (uint32_t)id);
  if (n) memcpy(f + 9, p, n);
}

static void credit(int fd, int id, uint32_t n) {
  char p[4];
  number(p, n);
  frame(fd, WINDOW_UPDATE, 0, id, p, 4);
}

// What is left of the text, as far as the windows go. 1: all of it.
static int say(conn *c, stream *s) {
  while (s->text_sent < s->text_len) {
    int64_t n = (int64_t)(s->text_len - s->text_sent);
    if (n > c->window) n = c->window;
    if (n > s->window) n = s->window;
    if (n <= 0) return 0;
    int all = s->text_sent + (size_t)n == s->text_len;
    frame(s->fd, DATA, s->last && all ? END_STREAM : 0, s->id, s->text + s->text_sent, (size_t)n);
    s->text_sent += (size_t)n;
    s->window -= n;
    c->window -= n;
  }
  return 1;
}

#define CHUNK_HEAD "data: {\"id\":\"chatcmpl-%d\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\","

static void next_text(stream *s) {
  s->text_sent = 0;
  if (s->left > 0) {
    s->left--;
    s->due_ns += interval_ns;
    s->text_len = (size_t)snprintf(s->text, sizeof s->text, CHUNK_HEAD "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%llu%.*s\"},\"finish_reason\":null}]}\n\n",
                                   s->serial, (unsigned long long)now_ns(), payload, filler);
  } else if (s->wants_usage) {
    s->wants_usage = 0;
    s->text_len = (size_t)snprintf(s->text, sizeof s->text, CHUNK_HEAD "\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\n",
                                   s->serial, events, events + 7);
  } else {
    s->text_len = 14;
    memcpy(s->text, "data: [DONE]\n\n", 14);
    s->last = 1;
  }
}

// Say what is due and may be said; come back by the heap for what is not due yet, by WINDOW_UPDATE or EPOLLOUT for the rest.
static void pump(stream *s) {
  conn *c = conns[s->fd];
  while (!c->blocked && say(c, s)) {
    if (s->last) {
      end(c, s);
      return;
    }
    if (s->due_ns > now_ns() || s->waits) {
      s->waits = 0;
      heap_add(s);
      return;
    }
    next_text(s);
    if (s->unpaced && s->left > 0) {  // the other streams' turn, when this one has left
      s->due_ns = now_ns();
      s->waits = 1;
    }
  }
}

static void pump_all(int fd) {
  conn *c = conns[fd];
  for (int i = 0; i < BUCKETS && c->live; i++)
    for (stream *s = c->bucket[i], *after; s; s = after) {
      after = s->next;
      if (s->answered && s->place < 0) pump(s);
    }
}

// 1: everything left; 0: the socket is full; -1: the connection is gone
static int flush(int fd) {
  conn *c = conns[fd];
  while (c->out_sent < c->out_len) {
    ssize_t n = send(fd, c->out + c->out_sent, c->out_len - c->out_sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN) {
      interest(fd, 1);
      c->blocked = c->out_len - c->out_sent > FULL_BYTES;
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

// HPACK without a dynamic table: an indexed field, and literals without indexing whose names stand in the static table.
static size_t field(char *p, int name, const char *value) {
  size_t n = strlen(value);
  p[0] = 0x0f, p[1] = (char)(name - 15), p[2] = (char)n;
  memcpy(p + 3, value, n);
  return n + 3;
}
enum { CACHE_CONTROL = 24, CONTENT_LENGTH = 28, CONTENT_TYPE = 31, DATE = 33, SERVER = 54 };

static void head(stream *s, int json, long length) {
  static char block[2][256];
  static size_t block_len[2];
  char b[320], digits[24];
  if (!block_len[json]) {
    char *p = block[json];
    size_t n = 1;
    p[0] = (char)0x88;  // :status: 200
    n += field(p + n, CONTENT_TYPE, json ? "application/json" : "text/event-stream; charset=utf-8");
    if (!json) n += field(p + n, CACHE_CONTROL, "no-cache");
    n += field(p + n, SERVER, "mock");
    if (json) n += field(p + n, DATE, "Fri, 20 Nov 2026 10:00:00 GMT");
    block_len[json] = n;
  }
  size_t n = block_len[json];
  memcpy(b, block[json], n);
  if (length >= 0) {
    snprintf(digits, sizeof digits, "%ld", length);
    n += field(b + n, CONTENT_LENGTH, digits);
  }
  frame(s->fd, HEADERS, END_HEADERS, s->id, b, n);
}

static const char MODELS[] = "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"created\":1700000000,\"owned_by\":\"mock\"}]}";

static int says(const char *body, size_t n, const char *text) { return memmem(body, n, text, strlen(text)) != 0; }

// The request is whole.
static void answer(stream *s, int has_body) {
  s->answered = 1;
  if (!has_body) {
    const char *body = s->path ? MODELS : "{}";
    s->text_len = strlen(body);
    memcpy(s->text, body, s->text_len);
  } else if (says(s->body, s->body_len, "\"stream\":true") || says(s->body, s->body_len, "\"stream\": true")) {
    static int serial;
    s->streaming = 1;
    s->left = events;
    s->serial = ++serial;
    s->unpaced = says(s->body, s->body_len, "#unpaced");
    s->wants_usage = says(s->body, s->body_len, "\"include_usage\":true");
    s->due_ns = now_ns() + think_ns;
  } else {
    s->text_len = (size_t)plain_len;
    memcpy(s->text, plain, s->text_len);
  }
  s->last = !s->streaming;
  head(s, !s->streaming, s->streaming ? -1 : (long)s->text_len);
  pump(s);
}

// Of a long body the first and the last bytes are kept, side by side.
static void take(stream *s, const char *p, size_t n) {
  if (s->body_len + n <= sizeof s->body) {
    memcpy(s->body + s->body_len, p, n);
    s->body_len += n;
    return;
  }
  if (s->body_len < EDGE_BYTES) {
    size_t k = EDGE_BYTES - s->body_len;
    memcpy(s->body + s->body_len, p, k);
    s->body_len += k;
    p += k;
    n -= k;
  }
  if (n > EDGE_BYTES) {
    p += n - EDGE_BYTES;
    n = EDGE_BYTES;
  }
  size_t tail = s->body_len - EDGE_BYTES, keep = tail + n > EDGE_BYTES ? EDGE_BYTES - n : tail;
  memmove(s->body + EDGE_BYTES, s->body + s->body_len - keep, keep);
  memcpy(s->body + EDGE_BYTES + keep, p, n);
  s->body_len = EDGE_BYTES + keep + n;
}

static void on_data(int fd, conn *c, int flags, int id, const char *p, size_t n) {
  stream *s = find(c, id);
  c->taken += (uint32_t)n;
  if (c->taken > (uint32_t)window_bytes / 2) {
    credit(fd, 0, c->taken);
    c->taken = 0;
  }
  if (!s || s->answered) return;
  s->taken += (uint32_t)n;
  if (s->taken > (uint32_t)window_bytes / 2 && !(flags & END_STREAM)) {
    credit(fd, id, s->taken);
    s->taken = 0;
  }
  if (flags & PADDED && n) {
    size_t pad = (unsigned char)p[0] + 1u;
    p++;
    n = n > pad ? n - pad : 0;
  }
  take(s, p, n);
  if (flags & END_STREAM) answer(s, 1);
}

static void on_settings(int fd, conn *c, const char *p, size_t n) {
  for (; n >= 6; p += 6, n -= 6) {
    uint32_t value = read_number(p + 2);
    if (p[1] != 4) continue;  // INITIAL_WINDOW_SIZE; frames are short, and no dynamic table is used
    int64_t by = (int64_t)value - (int64_t)c->first_window;
    c->first_window = value;
    for (int i = 0; i < BUCKETS && c->live; i++)
      for (stream *s = c->bucket[i]; s; s = s->next) s->window += by;
  }
  frame(fd, SETTINGS, ACK, 0, 0, 0);
  pump_all(fd);
}

static void on_frame(int fd, int type, int flags, int id, const char *p, size_t n) {
  // "/v1/models", as it is and in Huffman's code.
  static const char path[] = "/v1/models", coded[] = "\x63\xb8\x58\xa4\xf2\x16\x84\x7f";
  conn *c = conns[fd];
  stream *s;
  switch (type) {
    case DATA:
      on_data(fd, c, flags, id, p, n);
      break;
    case HEADERS:
      if ((s = find(c, id))) {  // trailers: a request's end
        if (flags & END_STREAM && !s->answered) answer(s, 1);
        break;
      }
      if (!(s = begin(c, fd, id))) {
        drop(fd);
        return;
      }
      s->path = memmem(p, n, path, sizeof path - 1) || memmem(p, n, coded, sizeof coded - 1);
      if (flags & END_STREAM) s->last = 1;
      c->headers_of = id;
      // fall through
    case CONTINUATION:
      if (flags & END_HEADERS && (s = find(c, c->headers_of)) && s->last && !s->answered) answer(s, 0);
      break;
    case RST_STREAM:
      if ((s = find(c, id))) end(c, s);
      break;
    case SETTINGS:
      if (!(flags & ACK)) on_settings(fd, c, p, n);
      break;
    case PING:
      if (!(flags & ACK)) frame(fd, PING, ACK, 0, p, 8);
      break;
    case WINDOW_UPDATE:
      if (!id) {
        c->window += read_number(p);
        pump_all(fd);
      } else if ((s = find(c, id))) {
        s->window += read_number(p);
        if (s->answered && s->place < 0) pump(s);
      }
      break;
    default:
      break;
  }
}

static void begin_h2(int fd) {
  char p[12];
  conn *c = conns[fd];
  c->preface = 1;
  p[0] = 0, p[1] = 3;  // MAX_CONCURRENT_STREAMS
  number(p + 2, (uint32_t)most_streams);
  p[6] = 0, p[7] = 4;  // INITIAL_WINDOW_SIZE
  number(p + 8, (uint32_t)window_bytes);
  frame(fd, SETTINGS, 0, 0, p, 12);
  if (window_bytes > 65535) credit(fd, 0, (uint32_t)window_bytes - 65535);
}

// GET over HTTP/1.1, one after the other; anything else is refused.
static void serve_h1(int fd) {
  conn *c = conns[fd];
  char *end_of_head;
  while (c->in_len && (end_of_head = memmem(c->in, c->in_len, "\r\n\r\n", 4))) {
    size_t total = (size_t)(end_of_head - c->in) + 4;
    char count[64], b[512];
    snprintf(count, sizeof count, "{\"accepted\":%llu}", accepted);
    int get = !memcmp(c->in, "GET ", 4);
    const char *body = !get ? "" : !strncmp(c->in, "GET /v1/models", 14) ? MODELS : !strncmp(c->in, "GET /accepted ", 14) ? count : "{}";
    int n = snprintf(b, sizeof b, "HTTP/1.1 %s\r\ncontent-type: application/json\r\n%scontent-length: %zu\r\n\r\n%s", get ? "200 OK" : "400 Bad Request",
                     get ? "" : "connection: close\r\n", strlen(body), body);
    memcpy(room(fd, (size_t)n), b, (size_t)n);
    memmove(c->in, c->in + total, c->in_len - total);
    c->in_len -= total;
  }
}

static void serve(int fd) {
  static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  conn *c = conns[fd];
  size_t at = 0;
  if (!c->preface) {
    if (memcmp(c->in, preface, c->in_len < 24 ? c->in_len : 24)) {
      serve_h1(fd);
      return;
    }
    if (c->in_len < 24) return;
    begin_h2(fd);
    at = 24;
  }
  while (c->open && c->in_len - at >= 9) {
    const unsigned char *u = (const unsigned char *)c->in + at;
    size_t n = (size_t)u[0] << 16 | (size_t)u[1] << 8 | u[2];
    if (n > 16384) {
      drop(fd);
      return;
    }
    if (c->in_len - at < 9 + n) break;
    on_frame(fd, u[3], u[4], (int)(read_number(c->in + at + 5) & 0x7fffffff), c->in + at + 9, n);
    at += 9 + n;
  }
  memmove(c->in, c->in + at, c->in_len - at);
  c->in_len -= at;
}

static void readable(int fd) {
  conn *c = conns[fd];
  ssize_t n = recv(fd, c->in + c->in_len, IN_BYTES - c->in_len, 0);
  if (n == 0 || (n < 0 && errno != EAGAIN)) {
    drop(fd);
  } else if (n > 0) {
    c->in_len += (size_t)n;
    serve(fd);
    if (c->open && c->in_len == IN_BYTES) drop(fd);  // a head of HTTP/1.1 that does not end
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
      conns[s]->out = malloc(conns[s]->out_cap = 65536);
    }
    conn *c = conns[s];
    accepted++;
    c->open = 1;
    c->want_out = c->preface = c->live = c->blocked = c->headers_of = 0;
    c->window = c->first_window = 65535;
    c->taken = 0;
    c->in_len = c->out_len = c->out_sent = 0;
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = s};
    epoll_ctl(ep, EPOLL_CTL_ADD, s, &e);
  }
}

static int options(int argc, char **argv) {
  static const struct option known[] = {{"port", 1, 0, 'p'},    {"events", 1, 0, 'e'},  {"interval-us", 1, 0, 'i'}, {"think-us", 1, 0, 't'},
                                        {"payload", 1, 0, 'l'}, {"streams", 1, 0, 's'}, {"window", 1, 0, 'w'},      {0, 0, 0, 0}};
  int port = 0, o;
  while ((o = getopt_long(argc, argv, "", known, 0)) != -1) {
    long v = optarg ? atol(optarg) : -1;
    if (o == '?' || v < 0 || v > 0x7fffffff || (o == 'l' && v > MAX_PAYLOAD)) {
      fprintf(stderr, "usage: h2engine [--port N] [--events N] [--interval-us N] [--think-us N] [--payload 0..%d] [--streams N] [--window N]\n", MAX_PAYLOAD);
      exit(2);
    }
    if (o == 'p') port = (int)v;
    if (o == 'e') events = (int)v;
    if (o == 'i') interval_ns = (uint64_t)v * 1000;
    if (o == 't') think_ns = (uint64_t)v * 1000;
    if (o == 'l') payload = (int)v;
    if (o == 's') most_streams = (int)v;
    if (o == 'w') window_bytes = (int)v;
  }
  return port;
}

int main(int argc, char **argv) {
  int port = options(argc, argv), one = 1;
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  signal(SIGPIPE, SIG_IGN);
  memset(filler, 'x', sizeof filler);
  plain_len = snprintf(plain, sizeof plain,
                       "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":"
                       "{\"role\":\"assistant\",\"content\":\"%.*s\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":16,"
                       "\"total_tokens\":23}}",
                       payload, filler);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof a;
  if (bind(listener, (void *)&a, sizeof a) || listen(listener, 4096) || getsockname(listener, (void *)&a, &size)) {
    perror("h2engine");
    return 1;
  }
  int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);  // see mockengine.c
  uint64_t armed = 0;
  ep = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, te = {.events = EPOLLIN, .data.fd = timer};
  epoll_ctl(ep, EPOLL_CTL_ADD, listener, &e);
  epoll_ctl(ep, EPOLL_CTL_ADD, timer, &te);
  printf("{\"listening\":%d}\n", ntohs(a.sin_port));
  fflush(stdout);
  static struct epoll_event ready[1024];
  for (;;) {
    int behind = heap_len && heap[0]->due_ns <= now_ns();
    if (heap_len && !behind && heap[0]->due_ns != armed) {
      armed = heap[0]->due_ns;
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
      if (conns[fd]->open && ready[i].events & EPOLLOUT && flush(fd) > 0 && conns[fd]->blocked) {
        conns[fd]->blocked = 0;
        pump_all(fd);
      }
      if (conns[fd]->open && ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(fd);
    }
    uint64_t turn = now_ns();  // not asked again: an unpaced stream is due at once, and must not keep the sockets waiting
    while (heap_len && heap[0]->due_ns <= turn) {
      stream *s = heap[0];
      heap_remove(s);
      pump(s);
    }
    for (int i = 0; i < dirty_len; i++) {
      conns[dirty[i]]->dirty = 0;
      if (conns[dirty[i]]->open) flush(dirty[i]);
    }
    dirty_len = 0;
  }
}
