// loadgen: HTTP/1.1 load on an OpenAI-shaped endpoint. One thread, epoll, loopback only, one JSON line out.
//
//   loadgen --port N [--connections 64] [--seconds 4] [--stream | --mixed] [--expect-events N] [--expect TEXT] [--spread-ms N]
//           [--path /v1/chat/completions] [--key sk-test] [--field "NAME: VALUE"]... [--body-bytes N[,N...]] [--close]
//           [--prompt TEXT] [--requests N] [--rate N]
//
// Each connection sends its next request when it has read the whole answer to the last; with --rate, requests are due evenly, so
// many a second, whether the server keeps up or not, and each goes over the connection that has been free the longest. One that
// is due while all are busy waits for one, and is counted from when it was due. Times are in microseconds:
//   latency_us  from the request's first byte (with --rate: from when it was due) to the answer's last
//   answer_us   from the request's first byte to the answer's last
//   ttft_us     from the request's first byte to the first SSE event
//   event_us    one-way, of each event whose text begins with its sender's CLOCK_MONOTONIC in ns
// The first tenth of the run (with --spread-ms up to a quarter) warms up and is left out of these and of the rates; the
// *_total counters hold the whole run, which is what a CPU time taken around it has to be divided by.
// With --rate, `sent` is how many were sent in the time that is counted, `waited` how many of them found no connection free when
// they were due, and `late` how many left more than a millisecond after they could have, which is this program's fault.
// --body-bytes lengthens the prompt by so many bytes of text that is like any: words, escaped quotes and line ends. Of several
// lengths the requests take turns; --mixed has half of each be streams. --field adds a field to every request's head.
// --close asks for, and makes, a new connection for each request.
// When the time is up, plain requests that are under way get their answers, within 300 ms: a client that leaves takes the
// proxy's connection to the engine with it, and the next run would measure that it is dialled anew. Streams are left.
// --requests ends the run when that many answers have come, if --seconds have not ended it before.
// --spread-ms starts the connections at evenly scattered moments: streams that all began together would beat in step,
// and every latency would measure the queue of 64 events that are due in the same instant.
// Every answer is checked: status 200, whole by its own framing, nothing after it; of a stream also [DONE] as its last
// event and the expected number of events; of a plain answer, a body that ends as JSON does and, with --expect, holds that text
// in its first 8 kB; of a stream, with --expect, all but two of --expect-events that hold it. `bad` counts the others,
// `first_bad` says what was wrong with the first, `stuck` counts the requests that met 2 s of silence at the end.
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
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define HEAD_BYTES 16384
#define LINE_BYTES 8192
#define SILENCE_NS 2000000000ull
#define LEAVE_NS 300000000ull
#define LATE_NS 1000000ull
#define MAX_ASKS 16
#define MAX_FIELDS 1024
#define BAD_ENOUGH 10000  // a proxy that refuses everything would otherwise be hammered for the whole run

enum state { WAITING, FREE, SENDING, HEAD, BODY };
enum framing { LENGTH, SIZE_LINE, CHUNK, CHUNK_END, TRAILERS };

typedef struct {
  char *bytes;
  size_t len;
  int stream;
} asked;

typedef struct {
  int fd, ok, closing, first_seen, done_seen, events, said;
  const asked *ask;
  enum state state;
  enum framing framing;
  size_t sent, head_len, line_len;
  long left;  // bytes still to come: of the body (LENGTH) or of the chunk
  char last;
  uint64_t begin_ns, due_ns, free_ns, start_ns, heard_ns;
  char head[HEAD_BYTES], line[LINE_BYTES];  // line: an unfinished SSE line, chunk-size line or trailer
} conn;

// A log-linear histogram of ns: 128 buckets per power of two, so 0.8 % wide.
typedef struct {
  uint64_t bucket[64 * 128], n, max;
} histogram;
static histogram latency, answer, ttft, oneway;

static void record(histogram *h, uint64_t v) {
  int e = 63 - __builtin_clzll(v | 128), s = (int)((v >> (e - 7)) & 127);
  h->bucket[e * 128 + s]++;
  h->n++;
  if (v > h->max) h->max = v;
}
static double quantile_us(const histogram *h, double p) {
  uint64_t want = (uint64_t)(p * (double)h->n), seen = 0;
  for (int i = 0; h->n && i < 64 * 128; i++) {
    seen += h->bucket[i];
    if (seen > want) return ((double)(1ull << (i / 128)) + ((double)(i % 128) + 0.5) * (double)(1ull << (i / 128)) / 128) / 1000;
  }
  return (double)h->max / 1000;
}
static void print_histogram(const char *name, const histogram *h) {
  printf(",\"%s\":{\"n\":%llu,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}", name, (unsigned long long)h->n,
         quantile_us(h, .5), quantile_us(h, .9), quantile_us(h, .99), quantile_us(h, .999), (double)h->max / 1000);
}

static uint64_t requests, requests_total, streamed, streamed_total, bytes, bad, reconnects;
static uint64_t shot, sent, waited, late, began_ns;  // of --rate: sent in all; sent, had to wait, left late since the warm-up
static char first_bad[160], fields[MAX_FIELDS];
static asked asks[MAX_ASKS];
static size_t kinds, lengths = 1, turn;
static int ep, port, stream, mixed, closing, leaving, expect_events, connections = 64, body_bytes[MAX_ASKS / 2];
static double seconds = 4, spread_ms, rate;
static uint64_t enough = UINT64_MAX;
static const char *path = "/v1/chat/completions", *key = "sk-test", *prompt = "Hello", *expect;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void wrong(conn *c, const char *what) {
  c->ok = 0;
  if (*first_bad) return;
  snprintf(first_bad, sizeof first_bad, "%s", what);
  for (char *p = first_bad; *p; p++)  // it is printed inside a JSON string
    if (*p < ' ' || *p > '~' || *p == '"' || *p == '\\') *p = '?';
}

static void watch(conn *c, int op, uint32_t what) {
  struct epoll_event e = {.events = what, .data.ptr = c};
  epoll_ctl(ep, op, c->fd, &e);
}

static void dial(conn *c) {
  int one = 1;
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(c->fd, (void *)&a, sizeof a) && errno != EINPROGRESS) wrong(c, strerror(errno));
  c->state = SENDING;
  c->sent = 0;
  c->start_ns = c->heard_ns = now_ns();
  watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}

static void redial(conn *c) {
  reconnects++;
  close(c->fd);
  dial(c);
}

static void broken(conn *c, const char *what) {
  wrong(c, what);
  bad++;
  redial(c);
}

static void shoot(conn *c) {
  if (c->sent == 0) {
    c->start_ns = c->heard_ns = now_ns();
    c->ask = &asks[turn++ % kinds];
    c->head_len = c->line_len = 0;
    c->first_seen = c->done_seen = c->events = c->said = c->closing = 0;
    c->last = 0;
    c->ok = 1;
    c->state = SENDING;
  }
  while (c->sent < c->ask->len) {
    ssize_t n = send(c->fd, c->ask->bytes + c->sent, c->ask->len - c->sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN) {
      watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
      return;
    }
    if (n < 0) {
      broken(c, strerror(errno));
      return;
    }
    c->sent += (size_t)n;
  }
  c->state = HEAD;
}

// With --rate the next request is sent when it is due.
static void proceed(conn *c) {
  if (rate <= 0) {
    shoot(c);
    return;
  }
  c->state = FREE;
  c->free_ns = now_ns();
}

static uint64_t when_due(uint64_t n) { return began_ns + (uint64_t)((double)n / rate * 1e9); }

// Send what is due, over the connections that have been free the longest; the time of the next, or 0 where all are busy.
static uint64_t dispatch(conn *all) {
  for (;;) {
    conn *c = 0;
    for (int i = 0; i < connections; i++)
      if (all[i].state == FREE && (!c || all[i].free_ns < c->free_ns)) c = &all[i];
    if (!c) return 0;
    uint64_t t = now_ns(), at = when_due(shot), could = c->free_ns > at ? c->free_ns : at;
    if (at > t) return at;
    c->due_ns = at;
    shot++;
    sent++;
    waited += could > at;
    late += t > could + LATE_NS;
    shoot(c);
  }
}

static void complete(conn *c) {
  int streams = c->ask->stream;
  if (!streams && c->last != '}') wrong(c, "a body that is not JSON");
  if (!streams && expect && !memmem(c->line, c->line_len, expect, strlen(expect))) wrong(c, "an answer without the text of the engine's");
  if (streams && !c->done_seen) wrong(c, "a stream that ended without [DONE]");
  if (streams && expect_events && c->events != expect_events) wrong(c, "a stream with events missing or added");
  if (streams && expect && c->said < expect_events - 2) wrong(c, "a stream with events without the text of the engine's");
  if (c->ok) {
    uint64_t t = now_ns();
    record(&answer, t - c->start_ns);
    record(&latency, t - (rate > 0 ? c->due_ns : c->start_ns));
    requests++;
    requests_total++;
  } else {
    bad++;
  }
  c->sent = 0;
  if (leaving)
    c->state = WAITING;
  else if (c->closing || closing)
    redial(c);
  else
    proceed(c);
}

static void sse_line(conn *c, const char *p, size_t n, uint64_t t) {
  if (n < 6 || memcmp(p, "data: ", 6)) return;
  if (c->done_seen) wrong(c, "an event after [DONE]");
  streamed++;
  streamed_total++;
  c->events++;
  if (!c->first_seen) {
    c->first_seen = 1;
    record(&ttft, t - c->start_ns);
  }
  if (n >= 12 && !memcmp(p + 6, "[DONE]", 6)) c->done_seen = 1;
  if (expect && memmem(p, n, expect, strlen(expect))) c->said++;
  const char *text = memmem(p, n, "\"content\":\"", 11);
  uint64_t sent = text ? strtoull(text + 11, 0, 10) : 0;
  if (sent && sent <= t) record(&oneway, t - sent);
}

// Give whole lines to `take`; keep the rest for the next bytes.
static void payload(conn *c, const char *p, size_t n, uint64_t t) {
  bytes += n;
  c->last = p[n - 1];
  if (!c->ask->stream) {
    size_t k = n < LINE_BYTES - c->line_len ? n : LINE_BYTES - c->line_len;
    if (expect) memcpy(c->line + c->line_len, p, k), c->line_len += k;
    return;
  }
  while (n) {
    const char *nl = memchr(p, '\n', n);
    size_t k = nl ? (size_t)(nl - p) + 1 : n;
    if (nl && !c->line_len) {
      sse_line(c, p, k, t);
    } else if (c->line_len + k > LINE_BYTES) {
      wrong(c, "an SSE line that is too long");
      c->line_len = 0;
    } else {
      memcpy(c->line + c->line_len, p, k);
      c->line_len += k;
      if (nl) {
        sse_line(c, c->line, c->line_len, t);
        c->line_len = 0;
      }
    }
    p += k;
    n -= k;
  }
}

static int parse_head(conn *c, char *end) {
  *end = 0;
  if (c->head_len < 12 || memcmp(c->head, "HTTP/1.1 200", 12)) {
    char what[48];
    snprintf(what, sizeof what, "%.40s", c->head);
    wrong(c, what);
  }
  char *length = strcasestr(c->head, "\r\ncontent-length:");
  c->closing = strcasestr(c->head, "\r\nconnection: close") != 0;
  c->framing = strcasestr(c->head, "\r\ntransfer-encoding: chunked") ? SIZE_LINE : LENGTH;
  if (c->framing == LENGTH && !length) return -1;
  c->left = length ? atol(length + 17) : 0;
  c->state = BODY;
  return 0;
}

// Walk the body's framing; 1 when the message is complete. What is left of the input stays at *p.
static int body(conn *c, const char **p, const char *end, uint64_t t) {
  static char small[64];
  while (*p < end || (c->framing == LENGTH && !c->left)) {
    size_t n = (size_t)(end - *p);
    if (c->framing == LENGTH || c->framing == CHUNK) {
      if (n > (size_t)c->left) n = (size_t)c->left;
      if (n) payload(c, *p, n, t);
      *p += n;
      c->left -= (long)n;
      if (c->left) return 0;
      if (c->framing == LENGTH) return 1;
      c->framing = CHUNK_END;
      continue;
    }
    // A size line, the CRLF after a chunk, or a trailer: short, and seldom split. `head` is free to hold the pieces.
    const char *nl = memchr(*p, '\n', n);
    size_t k = nl ? (size_t)(nl - *p) + 1 : n;
    if (c->head_len + k >= sizeof small) return -1;
    memcpy(c->head + c->head_len, *p, k);
    c->head_len += k;
    *p += k;
    if (!nl) return 0;
    c->head[c->head_len] = 0;
    int empty = c->head_len == 2 && c->head[0] == '\r';
    c->head_len = 0;
    if (c->framing == TRAILERS) {
      if (empty) return 1;
    } else if (c->framing == CHUNK_END) {
      if (!empty) return -1;
      c->framing = SIZE_LINE;
    } else {
      char *stop;
      c->left = strtol(c->head, &stop, 16);
      if (stop == c->head || c->left < 0) return -1;
      c->framing = c->left ? CHUNK : TRAILERS;
    }
  }
  return 0;
}

static void feed(conn *c, const char *p, size_t n) {
  uint64_t t = now_ns();
  const char *end = p + n;
  c->heard_ns = t;
  if (c->state == FREE || (c->state == SENDING && !c->sent)) {
    broken(c, "bytes before the request");
    return;
  }
  if (c->state != BODY) {
    if (c->head_len + n > HEAD_BYTES) {
      broken(c, "a response head that is too long");
      return;
    }
    size_t before = c->head_len, from = before > 3 ? before - 3 : 0;
    memcpy(c->head + before, p, n);
    c->head_len += n;
    char *stop = memmem(c->head + from, c->head_len - from, "\r\n\r\n", 4);
    if (!stop) return;
    p += (size_t)(stop - c->head) + 4 - before;
    if (parse_head(c, stop)) {
      broken(c, "an answer without a length");
      return;
    }
    c->head_len = 0;
  }
  int whole = body(c, &p, end, t);
  if (whole < 0) {
    broken(c, "a malformed chunk");
  } else if (whole) {
    if (p != end) wrong(c, "bytes after the answer"), c->closing = 1;
    complete(c);
  }
}

static void ready(conn *c, uint32_t what) {
  static char in[1 << 18];
  if (what & EPOLLOUT && c->state == SENDING) {
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
    int fd = c->fd;
    if (c->sent)
      shoot(c);
    else
      proceed(c);
    if (c->fd != fd || c->state == SENDING) return;
  }
  if (!(what & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
  ssize_t n = recv(c->fd, in, sizeof in, 0);
  if (n > 0)
    feed(c, in, (size_t)n);
  else if (n == 0 && c->state == FREE)
    redial(c);  // a server may close what nothing is asked over
  else if (n == 0)
    broken(c, "the connection was closed before the answer's end");
  else if (errno != EAGAIN)
    broken(c, strerror(errno));
}

// Answers that are still to come. A connection that is still being made has asked for nothing.
static int under_way(const conn *all) {
  int n = 0;
  for (int i = 0; i < connections; i++) n += all[i].state == HEAD || all[i].state == BODY || (all[i].state == SENDING && all[i].sent);
  return n;
}

static void depart(conn *c, uint32_t what) {
  if (c->state == WAITING || c->state == FREE || (c->state == SENDING && !c->sent))
    epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, 0);
  else
    ready(c, what);
}

static void field(const char *text) {
  size_t n = strlen(fields);
  if (n + strlen(text) + 3 > MAX_FIELDS || strpbrk(text, "\r\n")) exit(2);
  snprintf(fields + n, MAX_FIELDS - n, "%s\r\n", text);
}

// "2000" or "2000,20000": how much longer each kind of prompt is.
static void prompt_lengths(const char *text) {
  for (lengths = 0; lengths < MAX_ASKS / 2; text++) {
    body_bytes[lengths++] = (int)strtol(text, (char **)&text, 10);
    if (*text != ',') break;
  }
  for (size_t i = 0; i < lengths; i++)
    if (body_bytes[i] < 0) exit(2);
  if (*text) exit(2);
}

static void options(int argc, char **argv) {
  static const struct option known[] = {{"port", 1, 0, 'p'},      {"connections", 1, 0, 'c'}, {"seconds", 1, 0, 's'}, {"stream", 0, 0, 'S'}, {"expect-events", 1, 0, 'e'},
                                        {"spread-ms", 1, 0, 'm'}, {"path", 1, 0, 'P'},        {"key", 1, 0, 'k'},     {"body-bytes", 1, 0, 'b'}, {"close", 0, 0, 'C'},
                                        {"prompt", 1, 0, 't'},    {"requests", 1, 0, 'n'},    {"rate", 1, 0, 'r'},    {"mixed", 0, 0, 'M'},  {"expect", 1, 0, 'x'},
                                        {"field", 1, 0, 'f'},     {0, 0, 0, 0}};
  int o;
  while ((o = getopt_long(argc, argv, "", known, 0)) != -1) {
    if (o == 'p') port = atoi(optarg);
    else if (o == 'c') connections = atoi(optarg);
    else if (o == 's') seconds = atof(optarg);
    else if (o == 'S') stream = 1;
    else if (o == 'M') mixed = 1;
    else if (o == 'e') expect_events = atoi(optarg);
    else if (o == 'x') expect = optarg;
    else if (o == 'm') spread_ms = atof(optarg);
    else if (o == 'P') path = optarg;
    else if (o == 'k') key = optarg;
    else if (o == 'f') field(optarg);
    else if (o == 'b') prompt_lengths(optarg);
    else if (o == 'C') closing = 1;
    else if (o == 't') prompt = optarg;
    else if (o == 'n') enough = strtoull(optarg, 0, 10);
    else if (o == 'r') rate = atof(optarg);
    else exit(2);
  }
  if (port < 1 || connections < 1 || seconds <= 0 || rate < 0 || strpbrk(prompt, "\"\\")) {
    fprintf(stderr, "usage: loadgen --port N [--connections N] [--seconds S] [--stream] ...; the head of loadgen.c has the rest\n");
    exit(2);
  }
}

// The size and the headers of what an OpenAI SDK sends.
static asked compose(int length, int streams) {
  static const char sentence[] = "A prompt is words, a \\\"quoted\\\" one now and then, and lines that end; most are no longer than this.\\n";
  size_t whole = (size_t)length / (sizeof sentence - 1) * (sizeof sentence - 1);  // no escape is cut in two
  char *filler = malloc((size_t)length + 1), *text;
  asked made = {.stream = streams};
  for (size_t i = 0; i < (size_t)length; i++) filler[i] = i < whole ? sentence[i % (sizeof sentence - 1)] : 'y';
  filler[length] = 0;
  int n = asprintf(&text, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"%s %s\"}],\"max_tokens\":64,\"temperature\":0.7,\"stream\":%s}", prompt, filler, streams ? "true" : "false");
  made.len = (size_t)asprintf(&made.bytes,
                              "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nAccept: application/json\r\n"
                              "User-Agent: OpenAI/Python 1.99.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Package-Version: 1.99.0\r\nX-Stainless-Runtime: CPython\r\n"
                              "%s%sContent-Length: %d\r\n\r\n%s",
                              path, port, key, fields, closing ? "Connection: close\r\n" : "", n, text);
  free(filler);
  free(text);
  return made;
}

static void compose_all(void) {
  for (kinds = 0; kinds < lengths * (mixed ? 2 : 1); kinds++)
    asks[kinds] = compose(body_bytes[kinds % lengths], mixed ? kinds >= lengths : stream);
}

int main(int argc, char **argv) {
  options(argc, argv);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  signal(SIGPIPE, SIG_IGN);
  compose_all();
  ep = epoll_create1(EPOLL_CLOEXEC);
  // epoll's own timeout is in whole milliseconds: too coarse to send by. An edge need not be read.
  int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  struct epoll_event te = {.events = EPOLLIN | EPOLLET};
  if (rate > 0) epoll_ctl(ep, EPOLL_CTL_ADD, timer, &te);
  conn *all = calloc((size_t)connections, sizeof(conn));
  uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9), begin = start, armed = 0;
  began_ns = start;
  double warm_s = spread_ms / 1000 < seconds / 4 ? spread_ms / 1000 : seconds / 4;
  uint64_t warm = start + (uint64_t)((warm_s > seconds / 10 ? warm_s : seconds / 10) * 1e9);
  for (int i = 0; i < connections; i++) {  // multiples of the golden ratio, modulo one: even at every scale
    double turn = i * 0.6180339887498949;
    all[i].begin_ns = start + (uint64_t)((turn - (double)(long)turn) * spread_ms * 1e6);
  }
  static struct epoll_event evs[1024];
  for (int waiting = connections, warmed = 0;;) {
    uint64_t t = now_ns();
    if (t > end || requests_total >= enough || bad > BAD_ENOUGH) break;
    if (!warmed && t > warm) {
      warmed = 1;
      memset(&latency, 0, sizeof latency);
      memset(&answer, 0, sizeof answer);
      memset(&ttft, 0, sizeof ttft);
      memset(&oneway, 0, sizeof oneway);
      requests = streamed = bytes = sent = waited = late = 0;
      begin = t;
    }
    for (int i = 0; waiting && i < connections; i++)
      if (all[i].state == WAITING && all[i].begin_ns <= t) dial(&all[i]), waiting--;
    uint64_t next = rate > 0 ? dispatch(all) : 0;
    if (next > armed) {
      armed = next;
      struct itimerspec at = {.it_value = {.tv_sec = (time_t)(next / 1000000000ull), .tv_nsec = (long)(next % 1000000000ull)}};
      timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, 0);
    }
    int k = epoll_wait(ep, evs, 1024, waiting ? 1 : 50);
    for (int i = 0; i < k; i++)
      if (evs[i].data.ptr) ready(evs[i].data.ptr, evs[i].events);
  }
  uint64_t stop = now_ns(), counted = requests, moved = bytes;
  leaving = !stream && bad <= BAD_ENOUGH;
  while (leaving && under_way(all) && now_ns() < stop + LEAVE_NS) {
    int k = epoll_wait(ep, evs, 1024, 10);
    for (int i = 0; i < k; i++)
      if (evs[i].data.ptr) depart(evs[i].data.ptr, evs[i].events);
  }
  int stuck = 0;
  for (int i = 0; i < connections; i++) stuck += all[i].state > FREE && all[i].heard_ns + SILENCE_NS < stop;
  double elapsed = (double)(stop - begin) / 1e9;
  struct rusage ru;
  getrusage(RUSAGE_SELF, &ru);
  double cpu = (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) + (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6;
  printf("{\"connections\":%d,\"seconds\":%.3f,\"requests\":%llu,\"requests_total\":%llu,\"events\":%llu,\"events_total\":%llu", connections, elapsed,
         (unsigned long long)counted, (unsigned long long)requests_total, (unsigned long long)streamed, (unsigned long long)streamed_total);
  printf(",\"rps\":%.1f,\"events_per_s\":%.1f,\"mb_per_s\":%.2f,\"bad\":%llu,\"stuck\":%d,\"reconnects\":%llu,\"first_bad\":\"%s\",\"cpu_s\":%.3f", (double)counted / elapsed,
         (double)streamed / elapsed, (double)moved / elapsed / 1e6, (unsigned long long)bad, stuck, (unsigned long long)reconnects, first_bad, cpu);
  printf(",\"rate\":%.1f,\"sent\":%llu,\"waited\":%llu,\"late\":%llu", rate, (unsigned long long)sent, (unsigned long long)waited, (unsigned long long)late);
  print_histogram("latency_us", &latency);
  print_histogram("answer_us", &answer);
  print_histogram("ttft_us", &ttft);
  print_histogram("event_us", &oneway);
  printf("}\n");
  return 0;
}
