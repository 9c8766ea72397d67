// crowd: many clients that each do little. One thread, epoll, loopback only; one JSON line out.
//
//   crowd hold  --port N --count 10000     a plain request on each of `count` connections; then all stay open and silent
//                                          until standard input ends, and {"closed":K} tells how many the peer closed
//   crowd visit --port N --count 1000000   a plain request on a connection of its own from each of `count` addresses,
//                                          127.1.0.0 and up, each then closed with RST
//   crowd turns --port N --count N         plain requests on `connections` keep-alive connections, each as soon as the
//                                          answer to the one before is whole
//   also: [--connections 64] at a time, [--seconds S] at most, [--key sk-test | --keys FILE: a line each, in turn]
//
// {"done":N,"seconds":S,"bad":K,"first_bad":"..."}: `done` counts good answers: 200, with a length, whole, JSON's end.
#include "loopback.h"

enum mode { HOLD, VISIT, TURNS };
enum state { SENDING, READING, HELD };

typedef struct {
  int fd;
  enum state state;
  size_t out_len, sent, in_len, whole;  // whole: the length of the answer with its head, 0 until it is known
  char out[1024], in[3072];
} conn;

static enum mode mode;
static int ep, port, connections = 64, under_way;
static uint64_t count, begun, done, closed, keys_len = 1;
static char **keys;
static double seconds = 1e9;
static const char *key = "sk-test", *keys_file;

static void next_request(conn *c) {
  c->out_len = compose(c->out, sizeof c->out, port, keys ? keys[begun % keys_len] : key, "m", 0);
  c->sent = c->in_len = c->whole = 0;
  c->state = SENDING;
  begun++;
}

static void open_one(conn *c) {
  while (begun < count) {
    c->fd = dial(port, mode == VISIT ? 0x7f010000u + (uint32_t)begun : 0);
    next_request(c);
    if (c->fd < 0) continue;
    // Edge-triggered: nobody has to change what is watched between the connect, the send and the answer.
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
    under_way++;
    return;
  }
}

static void lost(conn *c, const char *why) {
  wrong(why);
  close(c->fd);
  c->fd = -1;
  under_way--;
  open_one(c);
}

static void push(conn *c) {
  while (c->sent < c->out_len) {
    ssize_t n = send(c->fd, c->out + c->sent, c->out_len - c->sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) {
      lost(c, strerror(errno));
      return;
    }
    c->sent += (size_t)n;
  }
  c->state = READING;
}

static void answered(conn *c) {
  if (memcmp(c->in, "HTTP/1.1 200", 12)) {
    c->in[c->in_len < 40 ? c->in_len : 40] = 0;
    wrong(c->in);
  } else if (c->in_len != c->whole || c->in[c->in_len - 1] != '}') {
    wrong("an answer of another length, or no JSON");
  } else {
    done++;
  }
  if (mode == TURNS && begun < count) {
    next_request(c);
    push(c);
    return;
  }
  under_way--;
  if (mode == HOLD) {
    c->state = HELD;
    conn *fresh = begun < count ? calloc(1, sizeof *fresh) : 0;
    if (fresh) open_one(fresh);
  } else {
    reset(c->fd);
    c->fd = -1;
    open_one(c);
  }
}

static void pull(conn *c) {
  while (c->fd >= 0 && c->state != SENDING) {
    if (c->in_len + 1 >= sizeof c->in) {
      lost(c, "an answer that is too long");
      return;
    }
    ssize_t n = recv(c->fd, c->in + c->in_len, sizeof c->in - 1 - c->in_len, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0 && c->state == HELD) {
      closed++;
      close(c->fd);
      c->fd = -1;
      return;
    }
    if (n <= 0) {
      lost(c, n ? strerror(errno) : "closed before the answer's end");
      return;
    }
    c->in_len += (size_t)n;
    c->in[c->in_len] = 0;
    char *end = c->whole ? 0 : strstr(c->in, "\r\n\r\n");
    if (end) {
      char *length = strcasestr(c->in, "\r\ncontent-length:");
      if (!length || length > end) {
        lost(c, "an answer without a length");
        return;
      }
      c->whole = (size_t)(end - c->in) + 4 + strtoul(length + 17, 0, 10);
    }
    if (!c->whole || c->in_len < c->whole) continue;
    int fd = c->fd;
    answered(c);
    if (c->fd != fd || c->state == HELD) return;
  }
}

static void read_keys(void) {
  FILE *f = fopen(keys_file, "r");
  char line[256];
  size_t room = 0;
  if (!f) {
    perror(keys_file);
    exit(2);
  }
  for (keys_len = 0; fgets(line, sizeof line, f); keys_len++) {
    if (keys_len == room) keys = realloc(keys, (room = room ? room * 2 : 1024) * sizeof *keys);
    line[strcspn(line, "\r\n")] = 0;
    keys[keys_len] = strdup(line);
  }
  fclose(f);
}

static void usage(void) {
  fprintf(stderr, "usage: crowd hold|visit|turns --port N --count N ...; the head of crowd.c has the rest\n");
  exit(2);
}

static void options(int argc, char **argv) {
  static const struct option known[] = {{"port", 1, 0, 'p'}, {"count", 1, 0, 'n'}, {"connections", 1, 0, 'c'}, {"seconds", 1, 0, 's'}, {"key", 1, 0, 'k'}, {"keys", 1, 0, 'K'}, {0, 0, 0, 0}};
  int o;
  if (argc < 2) usage();
  if (!strcmp(argv[1], "hold")) mode = HOLD;
  else if (!strcmp(argv[1], "visit")) mode = VISIT;
  else if (!strcmp(argv[1], "turns")) mode = TURNS;
  else usage();
  while ((o = getopt_long(argc - 1, argv + 1, "", known, 0)) != -1) {
    if (o == 'p') port = atoi(optarg);
    else if (o == 'n') count = strtoull(optarg, 0, 10);
    else if (o == 'c') connections = atoi(optarg);
    else if (o == 's') seconds = atof(optarg);
    else if (o == 'k') key = optarg;
    else if (o == 'K') keys_file = optarg;
    else usage();
  }
  if (port < 1 || connections < 1 || !count || seconds <= 0) usage();
  if (keys_file) read_keys();
  if (!keys_len) usage();
}

int main(int argc, char **argv) {
  static struct epoll_event evs[1024];
  options(argc, argv);
  begin();
  ep = epoll_create1(EPOLL_CLOEXEC);
  uint64_t start = now_ns(), most_ns = (uint64_t)(seconds * 1e9), heard = start;
  for (int i = 0; i < connections && begun < count; i++) {
    conn *c = calloc(1, sizeof *c);
    if (c) open_one(c);
  }
  while (under_way && bad < 1000) {
    uint64_t t = now_ns();
    if (t - start > most_ns) count = begun;  // what is under way may still end
    int k = epoll_wait(ep, evs, 1024, 100);
    if (k) heard = t;
    if (t - heard > 10000000000ull) {
      wrong("10 s of silence");
      break;
    }
    for (int i = 0; i < k; i++) {
      conn *c = evs[i].data.ptr;
      if (c->fd >= 0 && c->state == SENDING && evs[i].events & EPOLLOUT) push(c);
      if (c->fd >= 0) pull(c);
    }
  }
  printf("{\"done\":%llu,\"seconds\":%.3f,\"bad\":%llu,\"first_bad\":\"%s\"}\n", (unsigned long long)done, (double)(now_ns() - start) / 1e9, (unsigned long long)bad, first_bad);
  fflush(stdout);
  if (mode != HOLD) return 0;
  struct epoll_event in = {.events = EPOLLIN | EPOLLHUP, .data.ptr = 0};
  epoll_ctl(ep, EPOLL_CTL_ADD, 0, &in);
  for (;;) {
    int k = epoll_wait(ep, evs, 1024, -1);
    for (int i = 0; i < k; i++) {
      char sink[256];
      if (evs[i].data.ptr) {
        pull(evs[i].data.ptr);
      } else if (read(0, sink, sizeof sink) <= 0) {
        printf("{\"closed\":%llu}\n", (unsigned long long)closed);
        return 0;
      }
    }
  }
}
