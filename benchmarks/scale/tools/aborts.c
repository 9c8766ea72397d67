// aborts: streams whose clients leave, and an engine that never answers them. One thread each, epoll, loopback only.
//
//   aborts leave --port N --count 100000 [--connections 64] [--key sk-test]
//     Four ways in turn: RST or FIN, before the first byte of the answer (model "silent", 0 to 4 ms after the request) or
//     in the stream (model "m", after 1 to 3 events). After its FIN a client waits for the other side to close.
//     {"left":N,"early":N,"late":N,"unended":K,"bad":K,"first_bad":"...","seconds":S}: `unended` met 10 s of nothing.
//   aborts silent
//     An engine: 200 {} to GET, nothing ever to POST. {"listening":PORT} first, and {"requests":N,"open":K} when standard
//     input ends: `open` are the connections that nobody closed.
#include "loopback.h"

enum state { FREE, SENDING, ASKED, LEAVING };
typedef struct {
  int fd, way, want, events;
  enum state state;
  uint64_t due_ns;  // of an early leaver: when; of a FIN: until when the other side has to close
  char tail[8];     // the end of what was read last: "data: " may stand across two reads
} conn;

static int ep, port, connections = 64;
static uint64_t count, begun, left, early, unended;
static const char *key = "sk-test";

static void watch(int fd, void *with, uint32_t what) {
  struct epoll_event e = {.events = what, .data.ptr = with};
  epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
}

static void next(conn *c) {
  c->state = FREE;
  while (begun < count) {
    c->way = (int)(begun & 3);
    c->want = 1 + (int)(begun / 4 % 3);
    c->events = 0;
    memset(c->tail, 0, sizeof c->tail);
    begun++;
    c->fd = dial(port, 0);
    if (c->fd < 0) continue;
    c->state = SENDING;
    watch(c->fd, c, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    return;
  }
}

static void gone(conn *c, const char *why) {
  if (why) wrong(why);
  else left++;
  reset(c->fd);
  next(c);
}

static void leave(conn *c) {
  early += !(c->way & 2);
  if (c->way & 1) {
    shutdown(c->fd, SHUT_WR);
    c->state = LEAVING;
    c->due_ns = now_ns() + 10000000000ull;
  } else {
    gone(c, 0);
  }
}

static void ask(conn *c) {
  char out[1024];
  size_t n = compose(out, sizeof out, port, key, c->way & 2 ? "m" : "silent", 1);
  if (send(c->fd, out, n, MSG_NOSIGNAL) != (ssize_t)n) {
    gone(c, "a request that did not leave whole");
    return;
  }
  c->state = ASKED;
  c->due_ns = c->way & 2 ? now_ns() + 10000000000ull : now_ns() + begun * 7919 % 4000 * 1000;
}

static void pull(conn *c) {
  static char in[65536];
  int fd = c->fd;
  while (c->fd == fd && (c->state == ASKED || c->state == LEAVING)) {
    ssize_t n = recv(fd, in + 8, sizeof in - 9, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
      gone(c, c->state == LEAVING ? 0 : n ? strerror(errno) : "the gateway closed first");
      return;
    }
    if (c->state == LEAVING) continue;
    in[8 + n] = 0;
    if (!(c->way & 2) || (!c->events && !memcmp(in + 8, "HTTP/1.1 ", 9) && memcmp(in + 8, "HTTP/1.1 200", 12))) {
      in[48] = 0;
      gone(c, in + 8);
      return;
    }
    memcpy(in + 3, c->tail + 3, 5);
    for (char *p = in + 3; (p = memmem(p, (size_t)(in + 8 + n - p), "data: ", 6)); p += 6) c->events++;
    for (int i = 0; i < 5; i++) c->tail[3 + i] = in[8 + n - 5 + i];
    if (c->events >= c->want) leave(c);
  }
}

static int leaving(void) {
  static struct epoll_event evs[256];
  conn *all = calloc((size_t)connections, sizeof *all);
  uint64_t start = now_ns();
  if (!all) return 1;
  for (int i = 0; i < connections; i++) next(&all[i]);
  for (int busy = 1; busy && bad < 1000;) {
    int k = epoll_wait(ep, evs, 256, 1);
    for (int i = 0; i < k; i++) {
      conn *c = evs[i].data.ptr;
      if (c->state == SENDING && evs[i].events & EPOLLOUT) ask(c);
      if (c->state == ASKED || c->state == LEAVING) pull(c);
    }
    uint64_t t = now_ns();
    busy = 0;
    for (int i = 0; i < connections; i++) {
      conn *c = &all[i];
      busy |= c->state != FREE;
      if (c->state == FREE || c->state == SENDING || c->due_ns > t) continue;
      if (c->state == LEAVING) unended++, gone(c, "10 s after its FIN a client still had its connection");
      else if (c->way & 2) gone(c, "10 s without the events that were to come");
      else leave(c);
    }
  }
  printf("{\"left\":%llu,\"early\":%llu,\"late\":%llu,\"unended\":%llu,\"bad\":%llu,\"first_bad\":\"%s\",\"seconds\":%.3f}\n", (unsigned long long)left, (unsigned long long)early,
         (unsigned long long)(left - (early < left ? early : left)), (unsigned long long)unended, (unsigned long long)bad, first_bad, (double)(now_ns() - start) / 1e9);
  return 0;
}

// Only POSTs of this project's own clients and probes come here: a request is in one read.
static int silent(void) {
  static struct epoll_event evs[256];
  static const char yes[] = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
  static char in[65536];
  long long requests = 0, open = 0;
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof a;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (bind(listener, (void *)&a, sizeof a) || listen(listener, 4096) || getsockname(listener, (void *)&a, &size)) {
    perror("aborts silent");
    return 1;
  }
  printf("{\"listening\":%d}\n", ntohs(a.sin_port));
  fflush(stdout);
  struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, input = {.events = EPOLLIN | EPOLLHUP, .data.fd = 0};
  epoll_ctl(ep, EPOLL_CTL_ADD, listener, &e);
  epoll_ctl(ep, EPOLL_CTL_ADD, 0, &input);
  for (;;) {
    int k = epoll_wait(ep, evs, 256, -1);
    for (int i = 0; i < k; i++) {
      int fd = evs[i].data.fd, s;
      if (fd == 0 && read(0, in, sizeof in) <= 0) {
        printf("{\"requests\":%lld,\"open\":%lld}\n", requests, open);
        return 0;
      } else if (fd == listener) {
        while ((s = accept4(listener, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
          e.data.fd = s;
          epoll_ctl(ep, EPOLL_CTL_ADD, s, &e);
          open++;
        }
      } else if (fd) {
        ssize_t n = recv(fd, in, sizeof in, 0);
        if (n < 0 && errno == EAGAIN) continue;
        if (n <= 0) {
          close(fd);
          open--;
        } else if (!memcmp(in, "GET ", 4)) {
          if (send(fd, yes, sizeof yes - 1, MSG_NOSIGNAL) < 0) continue;
        } else if (!memcmp(in, "POST ", 5)) {
          requests++;
        }
      }
    }
  }
}

int main(int argc, char **argv) {
  static const struct option known[] = {{"port", 1, 0, 'p'}, {"count", 1, 0, 'n'}, {"connections", 1, 0, 'c'}, {"key", 1, 0, 'k'}, {0, 0, 0, 0}};
  int o, engine = argc > 1 && !strcmp(argv[1], "silent");
  while (argc > 1 && (o = getopt_long(argc - 1, argv + 1, "", known, 0)) != -1) {
    if (o == 'p') port = atoi(optarg);
    else if (o == 'n') count = strtoull(optarg, 0, 10);
    else if (o == 'c') connections = atoi(optarg);
    else if (o == 'k') key = optarg;
    else return 2;
  }
  if (!engine && (port < 1 || !count || connections < 1 || strcmp(argv[1], "leave"))) {
    fprintf(stderr, "usage: aborts silent | aborts leave --port N --count N ...; the head of aborts.c has the rest\n");
    return 2;
  }
  begin();
  ep = epoll_create1(EPOLL_CLOEXEC);
  return engine ? silent() : leaving();
}
