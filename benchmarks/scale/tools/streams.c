// streams: thousands of paced SSE streams at once, and how long each event was on its way. One thread, epoll, loopback only.
//
//   streams --port N --count 10000 [--spread-s 10] [--seconds 20] [--key sk-test]
//
// The engine behind the port begins each event's text with CLOCK_MONOTONIC in ns and ends no stream while this runs.
// Streams begin at scattered moments within `spread-s`, so that their events do not fall due in the same instant.
//   1. out: {"open":N,"bad":K,"first_bad":"...","seconds":S} when each stream has had two events, or was refused, or
//      30 s after the last began
//   2. in:  a line. From here on events are counted, for `seconds`
//   3. out: {"streams":N,"events":E,"seconds":S,"silent":K,"bad":K,...,"event_us":{"n":..,"p50":..,"p99":..}}
//      Then all stay open until standard input ends.
// `silent` streams had no event in that time; `bad` counts streams that were refused or ended, and events without a time.
#include "loopback.h"

#define MAX_US 4000000  // one bucket a microsecond; what took longer counts as that

enum state { WAITING, SENDING, HEAD, STREAM, GONE };
typedef struct {
  int fd;
  enum state state;
  uint32_t events, seen;  // seen: since the measurement began
  uint64_t begin_ns;
  size_t len;
  char line[1200];
} conn;

static uint32_t bucket[MAX_US + 1];
static uint64_t events, slowest;
static int ep, port, count, alive, ready, measuring;
static double spread_s = 10, seconds = 20;
static const char *key = "sk-test";
static char request[1024];
static size_t request_len;

static double quantile(double p) {
  uint64_t want = (uint64_t)(p * (double)events), seen = 0;
  for (int i = 0; events && i <= MAX_US; i++)
    if ((seen += bucket[i]) > want) return i + 0.5;
  return (double)slowest;
}

static void lost(conn *c, const char *why) {
  wrong(why);
  if (c->fd >= 0) reset(c->fd);
  if (c->state == STREAM) alive--, ready -= c->events >= 2;
  c->state = GONE;
}

static void start(conn *c) {
  c->fd = dial(port, 0);
  if (c->fd < 0) {
    c->state = GONE;
    return;
  }
  c->state = SENDING;
  struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
  epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
}

static void event(conn *c, const char *line, uint64_t t) {
  const char *text = strstr(line, "\"content\":\"");
  uint64_t sent = text ? strtoull(text + 11, 0, 10) : 0;
  if (!sent || sent > t) {
    wrong("an event without a time");
    return;
  }
  if (++c->events == 2) ready++;
  if (!measuring) return;
  c->seen++;
  events++;
  uint64_t us = (t - sent) / 1000;
  bucket[us < MAX_US ? us : MAX_US]++;
  if (us > slowest) slowest = us;
}

// Size lines of chunks, blank lines and events are all lines here; only the events matter.
static void pull(conn *c) {
  for (;;) {
    if (c->len + 1 >= sizeof c->line) {
      lost(c, "a line that is too long");
      return;
    }
    ssize_t n = recv(c->fd, c->line + c->len, sizeof c->line - 1 - c->len, 0);
    uint64_t t = now_ns();
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
      lost(c, n ? strerror(errno) : "a stream that ended");
      return;
    }
    c->len += (size_t)n;
    c->line[c->len] = 0;
    char *from = c->line;
    if (c->state == HEAD) {
      char *end = strstr(c->line, "\r\n\r\n");
      if (!end) continue;
      if (memcmp(c->line, "HTTP/1.1 200", 12)) {
        c->line[40] = 0;
        lost(c, c->line);
        return;
      }
      c->state = STREAM;
      alive++;
      from = end + 4;
    }
    for (char *nl; (nl = strchr(from, '\n')); from = nl + 1) {
      *nl = 0;
      if (!strncmp(from, "data: ", 6)) event(c, from, t);
    }
    c->len = (size_t)(c->line + c->len - from);
    memmove(c->line, from, c->len);
  }
}

static void turn(conn *c, uint32_t what) {
  if (c->state == SENDING && what & EPOLLOUT) {
    // A fresh socket takes a request of this size whole.
    if (send(c->fd, request, request_len, MSG_NOSIGNAL) != (ssize_t)request_len) {
      lost(c, "a request that did not leave whole");
      return;
    }
    c->state = HEAD;
  }
  if (c->state == HEAD || c->state == STREAM) pull(c);
  else if (c->state == SENDING && what & (EPOLLERR | EPOLLHUP)) lost(c, "the connection was refused");
}

static int sooner(const void *a, const void *b) {
  uint64_t x = ((const conn *)a)->begin_ns, y = ((const conn *)b)->begin_ns;
  return (x > y) - (x < y);
}

static void options(int argc, char **argv) {
  static const struct option known[] = {{"port", 1, 0, 'p'}, {"count", 1, 0, 'n'}, {"spread-s", 1, 0, 'w'}, {"seconds", 1, 0, 's'}, {"key", 1, 0, 'k'}, {0, 0, 0, 0}};
  int o;
  while ((o = getopt_long(argc, argv, "", known, 0)) != -1) {
    if (o == 'p') port = atoi(optarg);
    else if (o == 'n') count = atoi(optarg);
    else if (o == 'w') spread_s = atof(optarg);
    else if (o == 's') seconds = atof(optarg);
    else if (o == 'k') key = optarg;
    else exit(2);
  }
  if (port < 1 || count < 1 || seconds <= 0 || spread_s < 0) {
    fprintf(stderr, "usage: streams --port N --count N ...; the head of streams.c has the rest\n");
    exit(2);
  }
}

int main(int argc, char **argv) {
  static struct epoll_event evs[1024];
  options(argc, argv);
  begin();
  request_len = compose(request, sizeof request, port, key, "m", 1);
  ep = epoll_create1(EPOLL_CLOEXEC);
  conn *all = calloc((size_t)count, sizeof *all);
  if (!all) return 1;
  uint64_t begun = now_ns(), from = 0, last = begun + (uint64_t)(spread_s * 1e9);
  for (int i = 0; i < count; i++) {  // multiples of the golden ratio, modulo one: even at every scale
    double turns = i * 0.6180339887498949;
    all[i].fd = -1;
    all[i].begin_ns = begun + (uint64_t)((turns - (double)(long)turns) * spread_s * 1e9);
  }
  qsort(all, (size_t)count, sizeof *all, sooner);
  struct epoll_event in = {.events = EPOLLIN | EPOLLHUP, .data.ptr = 0};
  epoll_ctl(ep, EPOLL_CTL_ADD, 0, &in);
  for (int next = 0, told = 0;;) {
    uint64_t t = now_ns();
    while (next < count && all[next].begin_ns <= t) start(&all[next++]);
    if (measuring && t - from > (uint64_t)(seconds * 1e9)) break;
    if (!told && next == count && (ready + (int)bad >= count || t > last + 30000000000ull)) {
      told = 1;
      printf("{\"open\":%d,\"bad\":%llu,\"first_bad\":\"%s\",\"seconds\":%.3f}\n", alive, (unsigned long long)bad, first_bad, (double)(t - begun) / 1e9);
      fflush(stdout);
    }
    int k = epoll_wait(ep, evs, 1024, next < count ? 1 : 20);
    for (int i = 0; i < k; i++) {
      char word[64];
      if (evs[i].data.ptr) {
        turn(evs[i].data.ptr, evs[i].events);
      } else if (read(0, word, sizeof word) <= 0) {
        return 1;  // whoever asked is gone
      } else {
        measuring = 1;
        from = now_ns();
      }
    }
  }
  int silent = 0;
  for (int i = 0; i < count; i++) silent += all[i].state == STREAM && !all[i].seen;
  printf("{\"streams\":%d,\"events\":%llu,\"seconds\":%.3f,\"silent\":%d,\"bad\":%llu,\"first_bad\":\"%s\"", alive, (unsigned long long)events, (double)(now_ns() - from) / 1e9, silent,
         (unsigned long long)bad, first_bad);
  printf(",\"event_us\":{\"n\":%llu,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%llu}}\n", (unsigned long long)events, quantile(.5), quantile(.9), quantile(.99), quantile(.999),
         (unsigned long long)slowest);
  fflush(stdout);
  for (char word[64]; read(0, word, sizeof word) > 0;);
  return 0;
}
