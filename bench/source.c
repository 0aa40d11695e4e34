/* source: an SMTP load source that costs little.
 *
 * Sends N messages over S sessions and reports, as one line of JSON, how many were accepted, how fast, and how long the reply to the final
 * dot took.  Message `i` has recipients u<i*R> .. u<i*R+R-1>, each at d<number mod D>.example, and carries `X-Bench: RUN-<i>` and
 * `X-Bench-Sent: <monotonic us>`.  A number is used once: what was not acknowledged is never sent again under its number, so a number
 * that a sink sees twice was duplicated by what lies between.  With --retry, new numbers follow until N messages were accepted.
 *
 * With --threads T the sessions, messages and rate are shared out over T threads, each with a loop of its own; thread t uses the numbers
 * t, t+T, t+2T ... .  One loop alone is a queue before whatever is measured, on whichever core the kernel put it.
 */
#include "load.h"
#include <getopt.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum stage { CLOSED, GREETING, HELLO, MAIL, RCPT, DATA, BODY, QUIT };
static const char *const STAGE_NAMES[] = {"connect", "greeting", "ehlo", "mail", "rcpt", "data", "body", "quit"};

struct session {
    int fd;
    enum stage stage; /* what the next reply answers */
    uint64_t number;  /* of the message in hand */
    bool busy;        /* a message is in hand */
    long rcpt_answered, rcpt_accepted, sent_here;
    int64_t wake_us; /* CLOSED: not before this; otherwise the last progress */
    int64_t body_sent_us;
    char in[2048];
    size_t in_length;
    char *command; /* room for a whole pipelined envelope, or the header of a message */
    struct iovec out[2];
    bool wants_write;
};

static struct {
    struct sockaddr_in to;
    struct sockaddr_in bind[64];
    int bind_count;
    long messages, size, sessions, recipients, domains, per_connection, rate, deadline_s, timeout_s, threads;
    bool pipeline, retry;
    const char *run, *sender, *hello, *domain_suffix, *times, *live, *user;
    char headers[4096];
    uint64_t first;
} option = {.messages = 1000, .size = 10240, .sessions = 50, .recipients = 1, .domains = 1, .per_connection = 1, .deadline_s = 600,
            .timeout_s = 60, .threads = 1, .run = "run", .sender = "bench@source.example", .hello = "source.example", .domain_suffix = ".example", .user = "u"};

static char *body; /* wire form, final dot included */
static size_t body_length;
static size_t command_room;
static int64_t started_us, deadline_us;
static uint64_t *live; /* accepted, failed; of all threads */
static volatile sig_atomic_t interrupted;

struct errors {
    struct { char name[40]; long count; } kinds[64];
    int count;
};

/* What a thread has for itself. */
static _Thread_local struct {
    long messages, sessions, rate; /* its share */
    int epoll;
    struct session *all;
    uint64_t used; /* numbers so far */
    uint64_t thread;
    long accepted, failed, in_flight;
} own;

/* What it found, for the report of all. */
struct found {
    long share, accepted, failed;
    uint64_t used;
    int64_t *accept_times; /* by number of its own; 0: not acknowledged */
    size_t accept_room;
    struct samples latencies;
    struct errors errors;
};
static _Thread_local struct found *found;

static void add_error(struct errors *errors, const char *name, long count) {
    int at = 0;
    while (at < errors->count && strcmp(errors->kinds[at].name, name) != 0) at++;
    if (at == 64) return;
    if (at == errors->count) {
        snprintf(errors->kinds[at].name, sizeof errors->kinds[at].name, "%s", name);
        errors->kinds[at].count = 0;
        errors->count++;
    }
    errors->kinds[at].count += count;
}

static void count_error(const char *stage, const char *what) {
    char name[40];
    snprintf(name, sizeof name, "%s %.20s", stage, what);
    for (char *c = name; *c; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < 32 || (unsigned char)*c > 126) *c = '?';
    add_error(&found->errors, name, 1);
}

static void make_body(void) {
    size_t length = 0, size = (size_t)option.size;
    body = malloc(size + 128);
    if (!body) die("out of memory");
    while (length < size) {
        size_t line = size - length < 78 ? size - length : 78;
        for (size_t i = 0; i < line; i++) body[length + i] = (char)('a' + (length / 80 + i) % 26);
        length += line;
        if (size - length < 3) break;
        body[length++] = '\r';
        body[length++] = '\n';
    }
    if (length < 2 || body[length - 1] != '\n') {
        body[length++] = '\r';
        body[length++] = '\n';
    }
    memcpy(body + length, ".\r\n", 3);
    body_length = length + 3;
}

/* The next message number of this thread. */
static uint64_t take_number(void) {
    uint64_t number = option.first + own.thread + own.used++ * (uint64_t)option.threads;
    if (number >= MAX_NUMBER) die("too many messages");
    return number;
}

static void remember_accept(uint64_t number, int64_t when_us) {
    size_t at = (size_t)((number - option.first) / (uint64_t)option.threads);
    if (at >= found->accept_room) {
        size_t room = found->accept_room ? found->accept_room : 4096;
        while (room <= at) room *= 2;
        found->accept_times = realloc(found->accept_times, room * sizeof(int64_t));
        if (!found->accept_times) die("out of memory");
        memset(found->accept_times + found->accept_room, 0, (room - found->accept_room) * sizeof(int64_t));
        found->accept_room = room;
    }
    found->accept_times[at] = when_us;
}

static void count_failed(void) {
    own.failed++;
    __atomic_fetch_add(&live[1], 1, __ATOMIC_RELAXED);
}

/* Whether the message that follows the next `ahead` ones is due. */
static bool is_due(int64_t now, long ahead) {
    return !own.rate || ((int64_t)own.used + ahead) * 1000000 / own.rate <= now - started_us;
}

static bool may_begin(int64_t now) { return !interrupted && own.accepted + own.failed + own.in_flight < own.messages && is_due(now, 0); }

static bool all_done(void) { return own.in_flight == 0 && (interrupted || own.accepted + own.failed >= own.messages); }

static void hang_up(struct session *session, int64_t wake_us) {
    if (session->fd >= 0) close(session->fd);
    if (session->busy) {
        session->busy = false;
        own.in_flight--;
        if (!option.retry) count_failed();
    }
    session->fd = -1;
    session->stage = CLOSED;
    session->wake_us = wake_us;
    session->in_length = 0;
    session->wants_write = false;
    session->out[0].iov_len = session->out[1].iov_len = 0;
}

static void fault(struct session *session, const char *what) {
    count_error(STAGE_NAMES[session->stage], what);
    if (!session->busy && !option.retry && session->stage <= HELLO && own.accepted + own.failed + own.in_flight < own.messages) {
        take_number(); /* of the message that this connection was for */
        count_failed();
    }
    hang_up(session, now_us() + (option.retry ? 50000 : 1000));
}

static void watch(struct session *session, bool writing) {
    if (session->wants_write == writing) return;
    struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = session};
    epoll_ctl(own.epoll, EPOLL_CTL_MOD, session->fd, &event);
    session->wants_write = writing;
}

/* Send what is pending; false when the connection is gone. */
static bool flush(struct session *session) {
    while (session->out[0].iov_len + session->out[1].iov_len) {
        ssize_t sent = writev(session->fd, session->out, 2);
        if (sent < 0) {
            if (errno == EAGAIN) {
                watch(session, true);
                return true;
            }
            fault(session, "write");
            return false;
        }
        for (int i = 0; i < 2; i++) {
            size_t part = (size_t)sent < session->out[i].iov_len ? (size_t)sent : session->out[i].iov_len;
            session->out[i].iov_base = (char *)session->out[i].iov_base + part;
            session->out[i].iov_len -= part;
            sent -= (ssize_t)part;
        }
    }
    watch(session, false);
    if (session->stage == BODY) session->body_sent_us = now_us();
    return true;
}

static bool say(struct session *session, size_t length) {
    session->out[0] = (struct iovec){session->command, length};
    session->out[1] = (struct iovec){NULL, 0};
    return flush(session);
}

static size_t put(struct session *session, size_t at, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(session->command + at, command_room - at, format, arguments);
    va_end(arguments);
    if (length < 0 || at + (size_t)length >= command_room) die("a command does not fit its buffer");
    return at + (size_t)length;
}

static size_t put_rcpt(struct session *session, size_t at, long index) {
    uint64_t recipient = session->number * (uint64_t)option.recipients + (uint64_t)index;
    return put(session, at, "RCPT TO:<%s%" PRIu64 "@d%" PRIu64 "%s>\r\n", option.user, recipient, recipient % (uint64_t)option.domains, option.domain_suffix);
}

static bool begin_message(struct session *session) {
    session->number = take_number();
    session->busy = true;
    session->rcpt_answered = session->rcpt_accepted = 0;
    session->sent_here++;
    session->stage = MAIL;
    own.in_flight++;
    size_t at = put(session, 0, "MAIL FROM:<%s>\r\n", option.sender);
    if (option.pipeline) {
        for (long i = 0; i < option.recipients; i++) at = put_rcpt(session, at, i);
        at = put(session, at, "DATA\r\n");
    }
    return say(session, at);
}

static bool send_body(struct session *session) {
    session->stage = BODY;
    size_t at = put(session, 0,
                    "%sX-Bench: %s-%" PRIu64 "\r\nX-Bench-Sent: %" PRId64 "\r\nFrom: <%s>\r\nSubject: bench %" PRIu64 "\r\n"
                    "Message-ID: <%s.%" PRIu64 "@source.example>\r\n\r\n",
                    option.headers, option.run, session->number, now_us(), option.sender, session->number, option.run, session->number);
    session->out[0] = (struct iovec){session->command, at};
    session->out[1] = (struct iovec){body, body_length};
    return flush(session);
}

static bool next_or_quit(struct session *session) {
    if (session->sent_here < option.per_connection && may_begin(now_us())) return begin_message(session);
    session->stage = QUIT;
    return say(session, put(session, 0, "QUIT\r\n"));
}

static bool finished(struct session *session) {
    int64_t now = now_us();
    session->busy = false;
    own.in_flight--;
    own.accepted++;
    __atomic_fetch_add(&live[0], 1, __ATOMIC_RELAXED);
    remember_accept(session->number, now);
    samples_add(&found->latencies, now - session->body_sent_us);
    return next_or_quit(session);
}

/* One whole reply has come; false when the session is closed. */
static bool answered(struct session *session, int code, const char *line) {
    char shown[24];
    snprintf(shown, sizeof shown, "%.*s", code ? 3 : 20, line);
    switch (session->stage) {
    case GREETING:
        if (code / 100 != 2) return fault(session, shown), false;
        session->stage = HELLO;
        return say(session, put(session, 0, "EHLO %s\r\n", option.hello));
    case HELLO:
        if (code / 100 != 2) return fault(session, shown), false;
        if (!may_begin(now_us())) return next_or_quit(session);
        return begin_message(session);
    case MAIL:
        if (code / 100 != 2) return fault(session, shown), false;
        session->stage = RCPT;
        return option.pipeline || say(session, put_rcpt(session, 0, 0));
    case RCPT:
        if (code / 100 == 2) session->rcpt_accepted++;
        else count_error("rcpt", shown);
        if (++session->rcpt_answered < option.recipients) return option.pipeline || say(session, put_rcpt(session, 0, session->rcpt_answered));
        if (!session->rcpt_accepted && !option.pipeline) return hang_up(session, now_us() + 50000), false;
        session->stage = DATA;
        return option.pipeline || say(session, put(session, 0, "DATA\r\n"));
    case DATA:
        if (code != 354) return fault(session, shown), false;
        return send_body(session);
    case BODY:
        if (code / 100 != 2) return fault(session, shown), false;
        return finished(session);
    default:
        return hang_up(session, 0), false;
    }
}

static void readable(struct session *session) {
    ssize_t got = recv(session->fd, session->in + session->in_length, sizeof session->in - session->in_length, 0);
    if (got <= 0) {
        if (got < 0 && errno == EAGAIN) return;
        if (session->stage == QUIT) hang_up(session, 0);
        else fault(session, got ? "reset" : "closed");
        return;
    }
    session->wake_us = now_us();
    session->in_length += (size_t)got;
    size_t at = 0;
    for (;;) {
        char *line = session->in + at, *end = memchr(line, '\n', session->in_length - at);
        if (!end) break;
        at = (size_t)(end + 1 - session->in);
        *end = '\0';
        bool digits = end - line >= 3 && line[0] >= '2' && line[0] <= '5' && line[1] >= '0' && line[1] <= '9' && line[2] >= '0' && line[2] <= '9';
        if (digits && line[3] == '-') continue;
        if (!answered(session, digits ? (line[0] - '0') * 100 + (line[1] - '0') * 10 + line[2] - '0' : 0, line)) return;
    }
    memmove(session->in, session->in + at, session->in_length - at);
    session->in_length -= at;
    if (session->in_length == sizeof session->in) fault(session, "long line");
}

static void dial(struct session *session) {
    session->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (session->fd < 0) die("socket: %s", strerror(errno));
    int on = 1;
    setsockopt(session->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (option.bind_count) {
        setsockopt(session->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        struct sockaddr_in *from = &option.bind[(own.thread + own.used * (uint64_t)option.threads) % (uint64_t)option.bind_count];
        if (bind(session->fd, (struct sockaddr *)from, sizeof *from)) die("bind: %s", strerror(errno));
    }
    session->sent_here = 0;
    session->wake_us = now_us();
    if (connect(session->fd, (struct sockaddr *)&option.to, sizeof option.to) && errno != EINPROGRESS) {
        fault(session, strerror(errno));
        return;
    }
    session->stage = GREETING;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = session};
    if (epoll_ctl(own.epoll, EPOLL_CTL_ADD, session->fd, &event)) die("epoll_ctl: %s", strerror(errno));
}

/* Dial where there is work, end what has made no progress; returns how long epoll may sleep, in ms. */
static int tend(void) {
    int64_t now = now_us();
    long lacking = own.messages - own.accepted - own.failed - own.in_flight, waiting = 0;
    bool sleeping = false;
    for (long i = 0; i < own.sessions; i++)
        if (own.all[i].stage != CLOSED && own.all[i].stage != QUIT && !own.all[i].busy) waiting++;
    for (long i = 0; i < own.sessions; i++) {
        struct session *session = &own.all[i];
        if (session->stage != CLOSED) {
            if (now - session->wake_us > option.timeout_s * 1000000) fault(session, "timeout");
        } else if (lacking > waiting && !interrupted) {
            if (session->wake_us <= now && may_begin(now) && is_due(now, waiting)) { /* those that still connect come first */
                waiting++;
                dial(session);
            } else sleeping = true;
        }
    }
    return sleeping ? 5 : 200;
}

/* What of `total` falls to thread `thread`: the shares differ by at most one. */
static long share_of(long total, long thread) { return total / option.threads + (thread < total % option.threads); }

/* One thread's part of the load, from its first connection to its last reply. */
static void *run(void *argument) {
    found = argument;
    own.thread = (uint64_t)found->share;
    own.messages = share_of(option.messages, found->share);
    own.sessions = share_of(option.sessions, found->share);
    own.rate = option.rate ? share_of(option.rate, found->share) : 0;
    own.all = calloc((size_t)own.sessions, sizeof *own.all);
    own.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!own.all || own.epoll < 0) die("out of memory");
    for (long i = 0; i < own.sessions; i++) {
        own.all[i].fd = -1;
        own.all[i].command = malloc(command_room);
        if (!own.all[i].command) die("out of memory");
    }
    struct epoll_event events[256];
    while (!all_done()) {
        if (now_us() > deadline_us) {
            count_error("run", "deadline");
            break;
        }
        int ready = epoll_wait(own.epoll, events, 256, tend());
        for (int i = 0; i < ready; i++) {
            struct session *session = events[i].data.ptr;
            if (session->fd < 0) continue;
            if ((events[i].events & EPOLLOUT) && !flush(session)) continue;
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(session);
        }
    }
    found->accepted = own.accepted;
    found->failed = own.failed;
    found->used = own.used;
    return NULL;
}

static void write_times(const struct found *parts) {
    uint64_t end = 0; /* behind the highest number that was used */
    for (long t = 0; t < option.threads; t++)
        if (parts[t].used && (parts[t].used - 1) * (uint64_t)option.threads + (uint64_t)t + 1 > end)
            end = (parts[t].used - 1) * (uint64_t)option.threads + (uint64_t)t + 1;
    int64_t *times = calloc(end ? end : 1, sizeof *times);
    if (!times) die("out of memory");
    for (long t = 0; t < option.threads; t++)
        for (uint64_t i = 0; i < parts[t].used && i < parts[t].accept_room; i++) times[i * (uint64_t)option.threads + (uint64_t)t] = parts[t].accept_times[i];
    write_file(option.times, times, end * sizeof *times);
    free(times);
}

/* Prints all threads' figures as one; how many messages were accepted. */
static long report(const struct found *parts, int64_t spent_us) {
    struct found all = {0};
    for (long t = 0; t < option.threads; t++) {
        all.accepted += parts[t].accepted;
        all.failed += parts[t].failed;
        all.used += parts[t].used;
        for (size_t i = 0; i < parts[t].latencies.count; i++) samples_add(&all.latencies, parts[t].latencies.values[i]);
        for (int i = 0; i < parts[t].errors.count; i++) add_error(&all.errors, parts[t].errors.kinds[i].name, parts[t].errors.kinds[i].count);
    }
    printf("{\"run\": \"%s\", \"accepted\": %ld, \"failed\": %ld, \"numbers\": %" PRIu64 ", \"seconds\": %.6f, \"accepted_per_s\": %.1f, \"cpu_us\": %" PRId64
           ", \"cpu_us_per_message\": %.1f, ",
           option.run, all.accepted, all.failed, all.used, (double)spent_us / 1e6, (double)all.accepted * 1e6 / (double)(spent_us ? spent_us : 1), own_cpu_us(),
           (double)own_cpu_us() / (double)(all.accepted ? all.accepted : 1));
    samples_print(stdout, "accept_us", &all.latencies);
    printf(", \"errors\": {");
    for (int i = 0; i < all.errors.count; i++) printf("%s\"%s\": %ld", i ? ", " : "", all.errors.kinds[i].name, all.errors.kinds[i].count);
    printf("}}\n");
    if (option.times) write_times(parts);
    return all.accepted;
}

static void on_signal(int number) {
    (void)number;
    interrupted = true;
}

static void options(int argc, char **argv) {
    static const struct option LONG[] = {
        {"to", 1, 0, 't'},         {"messages", 1, 0, 'm'}, {"size", 1, 0, 'l'},     {"sessions", 1, 0, 's'},  {"recipients", 1, 0, 'r'}, {"domains", 1, 0, 'd'},
        {"per-connection", 1, 0, 'c'}, {"rate", 1, 0, 'R'}, {"deadline", 1, 0, 'D'}, {"timeout", 1, 0, 'T'},   {"pipeline", 0, 0, 'p'},   {"retry", 0, 0, 'y'},
        {"run", 1, 0, 'n'},        {"sender", 1, 0, 'f'},   {"hello", 1, 0, 'H'},    {"header", 1, 0, 'h'},    {"times", 1, 0, 'o'},      {"live", 1, 0, 'v'},
        {"first", 1, 0, 'F'},      {"bind", 1, 0, 'b'},     {"domain-suffix", 1, 0, 'x'}, {"user", 1, 0, 'u'},
        {"threads", 1, 0, 'j'},    {0, 0, 0, 0}};
    for (int c; (c = getopt_long(argc, argv, "", LONG, NULL)) != -1;) switch (c) {
        case 't': option.to = address_argument(optarg, "to"); break;
        case 'm': option.messages = number_argument(optarg, "messages", 1); break;
        case 'l': option.size = number_argument(optarg, "size", 1); break;
        case 's': option.sessions = number_argument(optarg, "sessions", 1); break;
        case 'r': option.recipients = number_argument(optarg, "recipients", 1); break;
        case 'd': option.domains = number_argument(optarg, "domains", 1); break;
        case 'c': option.per_connection = number_argument(optarg, "per-connection", 1); break;
        case 'R': option.rate = number_argument(optarg, "rate", 1); break;
        case 'D': option.deadline_s = number_argument(optarg, "deadline", 1); break;
        case 'T': option.timeout_s = number_argument(optarg, "timeout", 1); break;
        case 'F': option.first = (uint64_t)number_argument(optarg, "first", 0); break;
        case 'p': option.pipeline = true; break;
        case 'y': option.retry = true; break;
        case 'n': option.run = optarg; break;
        case 'f': option.sender = optarg; break;
        case 'H': option.hello = optarg; break;
        case 'x': option.domain_suffix = optarg; break;
        case 'u': option.user = optarg; break;
        case 'j': option.threads = number_argument(optarg, "threads", 1); break;
        case 'o': option.times = optarg; break;
        case 'v': option.live = optarg; break;
        case 'b': {
            char with_port[80];
            snprintf(with_port, sizeof with_port, "%s:0", optarg);
            if (option.bind_count == 64) die("--bind: at most 64");
            option.bind[option.bind_count++] = address_argument(with_port, "bind");
            break;
        }
        case 'h':
            if (strlen(option.headers) + strlen(optarg) + 3 > sizeof option.headers) die("--header: too long together");
            strcat(strcat(option.headers, optarg), "\r\n");
            break;
        default: die("see bench/README.md for the options of bench/source.c");
        }
    if (!option.to.sin_port) die("--to IPv4:PORT is missing");
    if (strspn(option.run, "abcdefghijklmnopqrstuvwxyz0123456789") != strlen(option.run)) die("--run: lower-case letters and digits only");
}

int main(int argc, char **argv) {
    options(argc, argv);
    never_interrupt();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    make_body();
    live = (uint64_t *)live_counters(option.live, 2);
    command_room = sizeof option.headers + 1024 + (size_t)option.recipients * (64 + strlen(option.domain_suffix) + strlen(option.user));
    if (option.threads > option.sessions) option.threads = option.sessions;
    if (option.rate && option.threads > option.rate) option.threads = option.rate;
    started_us = now_us();
    deadline_us = started_us + option.deadline_s * 1000000;
    struct found *parts = calloc((size_t)option.threads, sizeof *parts);
    pthread_t *threads = calloc((size_t)option.threads, sizeof *threads);
    if (!parts || !threads) die("out of memory");
    for (long t = 0; t < option.threads; t++) {
        parts[t].share = t;
        if (t && pthread_create(&threads[t], NULL, run, &parts[t])) die("no thread: %s", strerror(errno));
    }
    run(&parts[0]);
    for (long t = 1; t < option.threads; t++) pthread_join(threads[t], NULL);
    return report(parts, now_us() - started_us) == option.messages ? 0 : 1;
}
