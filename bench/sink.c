/* sink: an SMTP sink that costs little and counts exactly.
 *
 * Accepts mail on any number of IPv4 listeners and counts every recipient by the number in its local part (`u123@...` of source.c,
 * `123user@...` of smtp-source -N), so that lost and duplicated ones show.  Reports a JSON summary, a byte per recipient (how often it
 * came, at most 255) and a 64-bit time per recipient (monotonic us of its first arrival) at SIGTERM, SIGINT and SIGUSR1.
 *
 * With --reply STAGE="451 4.3.0 later" it starts out refusing at that stage; SIGUSR2, or a line in the --control FIFO (`accept`, `refuse`,
 * `reply STAGE CODE TEXT`, `report`), changes that while it runs.
 */
#include "load.h"
#include <ctype.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum stage { GREETING, EHLO, MAIL, RCPT, DATA, BODY, STAGES };
static const char *const STAGE_NAMES[] = {"greeting", "ehlo", "mail", "rcpt", "data", "body"};
enum { IN_ROOM = 65536, OUT_ROOM = 16384, RCPT_ROOM = 100000, HEADER_ROOM = 16384, PEERS = 4096 };

struct peer { /* one source IP under one EHLO name */
    uint32_t ip;
    char hello[64];
    uint64_t connections, messages;
};

struct connection {
    int fd;
    bool reading_body, header_seen, closing, paused;
    uint32_t ip;
    struct peer *peer;
    size_t in_length, out_length, out_at;
    uint32_t *rcpt; /* numbers of this transaction; UINT32_MAX: none in the address */
    size_t rcpt_count, rcpt_room;
    uint64_t body_bytes;
    int64_t sent_us, due_us;
    bool begun; /* a body byte has come */
    int delayed; /* the stage whose delay is being served, or -1 */
    struct connection *next; /* in the queue of that delay, or the free list */
    char in[IN_ROOM];
    char out[OUT_ROOM];
};

static struct { long max_connections, recipients_hint; bool no_pipelining; const char *counts, *times, *summary, *live, *control; int64_t delay_us[STAGES]; } option;
static char refusal[STAGES][128];
static bool refusing;
static int epoll, control_fd = -1, signal_fd;
static int listeners[64], listener_count;
static struct { struct connection *head, *tail; } delays[STAGES];
static struct connection *spare;

static uint8_t *counts;
static int64_t *times;
static size_t room, used;
static uint64_t messages, recipients, unnumbered, foreign, body_bytes, accepted_connections, refused_connections, refused_commands, protocol_faults;
static long open_connections, peak_connections;
static int64_t first_us, last_us;
static struct samples latencies;
static volatile uint64_t *live; /* messages, recipients, distinct recipients */
static struct peer peers[PEERS];
static size_t peer_count;

static void count_recipient(uint32_t number, int64_t now) {
    if (number == UINT32_MAX) {
        unnumbered++;
        return;
    }
    if (number >= room) {
        size_t wanted = room ? room : 65536;
        while (wanted <= number) wanted *= 2;
        counts = realloc(counts, wanted);
        times = realloc(times, wanted * sizeof *times);
        if (!counts || !times) die("out of memory");
        memset(counts + room, 0, wanted - room);
        memset(times + room, 0, (wanted - room) * sizeof *times);
        room = wanted;
    }
    if (number >= used) used = number + 1;
    if (counts[number] == 0) {
        times[number] = now;
        live[2]++;
    }
    if (counts[number] < 255) counts[number]++;
}

static struct peer *peer_of(uint32_t ip, const char *hello, size_t length) {
    if (length > sizeof peers[0].hello - 1) length = sizeof peers[0].hello - 1;
    for (size_t i = 0; i < peer_count; i++)
        if (peers[i].ip == ip && strlen(peers[i].hello) == length && memcmp(peers[i].hello, hello, length) == 0) return &peers[i];
    struct peer *peer = &peers[peer_count < PEERS - 1 ? peer_count++ : PEERS - 1]; /* the last row takes what is over */
    peer->ip = ip;
    for (size_t i = 0; i < length; i++) peer->hello[i] = isalnum((unsigned char)hello[i]) || strchr(".-_:[]", hello[i]) ? hello[i] : '?';
    peer->hello[length] = '\0';
    return peer;
}

static void report(void) {
    uint64_t distinct = 0, extra = 0;
    for (size_t i = 0; i < used; i++) {
        distinct += counts[i] > 0;
        extra += counts[i] > 1 ? counts[i] - 1u : 0;
    }
    if (option.counts) write_file(option.counts, counts, used);
    if (option.times) write_file(option.times, times, used * sizeof *times);
    if (!option.summary) return;
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out) die("out of memory");
    fprintf(out,
            "{\"messages\": %" PRIu64 ", \"recipients\": %" PRIu64 ", \"distinct_recipients\": %" PRIu64 ", \"duplicate_recipients\": %" PRIu64 ", \"unnumbered_recipients\": %" PRIu64
            ", \"without_bench_header\": %" PRIu64 ", \"body_bytes\": %" PRIu64 ", \"connections\": %" PRIu64 ", \"peak_connections\": %ld, \"refused_connections\": %" PRIu64
            ", \"refused_commands\": %" PRIu64 ", \"protocol_faults\": %" PRIu64 ", \"first_us\": %" PRId64 ", \"last_us\": %" PRId64 ", \"cpu_us\": %" PRId64 ", ",
            messages, recipients, distinct, extra, unnumbered, foreign, body_bytes, accepted_connections, peak_connections, refused_connections, refused_commands, protocol_faults,
            first_us, last_us, own_cpu_us());
    samples_print(out, "sent_to_delivered_us", &latencies);
    fprintf(out, ", \"peers\": [");
    for (size_t i = 0; i < peer_count; i++) {
        char ip[INET_ADDRSTRLEN];
        inet_ntop(AF_INET, &peers[i].ip, ip, sizeof ip);
        fprintf(out, "%s{\"ip\": \"%s\", \"hello\": \"%s\", \"connections\": %" PRIu64 ", \"messages\": %" PRIu64 "}", i ? ", " : "", ip, peers[i].hello, peers[i].connections,
                peers[i].messages);
    }
    fprintf(out, "]}\n");
    fclose(out);
    write_file(option.summary, text, size);
    free(text);
}

static void hang_up(struct connection *connection) {
    close(connection->fd);
    connection->fd = -1;
    open_connections--;
    if (connection->delayed < 0) { /* otherwise its delay queue frees it */
        connection->next = spare;
        spare = connection;
    }
}

static void watch(struct connection *connection, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = connection};
    epoll_ctl(epoll, EPOLL_CTL_MOD, connection->fd, &event);
}

/* Send the replies; false when the connection is gone. */
static bool flush(struct connection *connection) {
    while (connection->out_at < connection->out_length) {
        ssize_t sent = send(connection->fd, connection->out + connection->out_at, connection->out_length - connection->out_at, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            if (!connection->paused) watch(connection, EPOLLOUT);
            connection->paused = true;
            return true;
        }
        if (sent < 0) return hang_up(connection), false;
        connection->out_at += (size_t)sent;
    }
    connection->out_at = connection->out_length = 0;
    if (connection->closing) return hang_up(connection), false;
    if (connection->paused && connection->delayed < 0) {
        watch(connection, EPOLLIN);
        connection->paused = false;
    }
    return true;
}

static void say(struct connection *connection, const char *text) {
    size_t length = strlen(text);
    if (connection->out_length + length > OUT_ROOM) return; /* cannot be: parse() stops before */
    memcpy(connection->out + connection->out_length, text, length);
    connection->out_length += length;
}

/* The refusal in force at *stage*, said; false if there is none. */
static bool refused(struct connection *connection, enum stage stage) {
    if (!refusing || !refusal[stage][0]) return false;
    refused_commands++;
    say(connection, refusal[stage]);
    say(connection, "\r\n");
    if (strncmp(refusal[stage], "421", 3) == 0 || (stage == GREETING && refusal[stage][0] == '5')) connection->closing = true;
    return true;
}

static void delay(struct connection *connection, enum stage stage) {
    if (!option.delay_us[stage]) return;
    connection->delayed = stage;
    connection->due_us = now_us() + option.delay_us[stage];
    connection->next = NULL;
    if (delays[stage].tail) delays[stage].tail->next = connection;
    else delays[stage].head = connection;
    delays[stage].tail = connection;
    connection->paused = true;
    watch(connection, 0);
}

static uint32_t recipient_number(const char *argument, size_t length) {
    const char *at = memchr(argument, '<', length), *end = argument + length;
    if (!at) return UINT32_MAX;
    for (at++; at < end && isalpha((unsigned char)*at); at++) continue;
    if (at == end || !isdigit((unsigned char)*at)) return UINT32_MAX;
    uint64_t number = 0;
    while (at < end && isdigit((unsigned char)*at) && number < MAX_NUMBER) number = number * 10 + (uint64_t)(*at++ - '0');
    return number < MAX_NUMBER ? (uint32_t)number : UINT32_MAX;
}

static void reset(struct connection *connection) { connection->rcpt_count = 0; }

static void end_of_body(struct connection *connection) {
    connection->reading_body = false;
    if (!refused(connection, BODY)) {
        int64_t now = now_us();
        if (!first_us) first_us = now;
        last_us = now;
        live[0] = ++messages;
        body_bytes += connection->body_bytes;
        if (!connection->sent_us) foreign++;
        else samples_add(&latencies, now - connection->sent_us);
        if (connection->peer) connection->peer->messages++;
        recipients += connection->rcpt_count;
        for (size_t i = 0; i < connection->rcpt_count; i++) count_recipient(connection->rcpt[i], now);
        live[1] = recipients;
        say(connection, "250 2.0.0 taken\r\n");
    }
    reset(connection);
    delay(connection, BODY);
}

static void rcpt(struct connection *connection, const char *argument, size_t length) {
    if (!refused(connection, RCPT)) {
        if (connection->rcpt_count >= RCPT_ROOM) {
            say(connection, "452 4.5.3 too many recipients\r\n");
            return;
        }
        if (connection->rcpt_count == connection->rcpt_room) {
            connection->rcpt_room = connection->rcpt_room ? connection->rcpt_room * 4 : 8;
            connection->rcpt = realloc(connection->rcpt, connection->rcpt_room * sizeof(uint32_t));
            if (!connection->rcpt) die("out of memory");
        }
        connection->rcpt[connection->rcpt_count++] = recipient_number(argument, length);
        say(connection, "250 2.1.5 ok\r\n");
    }
    delay(connection, RCPT);
}

static void hello(struct connection *connection, const char *argument, size_t length, bool extended) {
    if (!refused(connection, EHLO)) {
        connection->peer = peer_of(connection->ip, argument, length);
        connection->peer->connections++;
        if (!extended) say(connection, "250 sink.example\r\n");
        else if (option.no_pipelining) say(connection, "250-sink.example\r\n250-SIZE\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n");
        else say(connection, "250-sink.example\r\n250-PIPELINING\r\n250-SIZE\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n");
    }
    delay(connection, EHLO);
}

static void data(struct connection *connection) {
    if (!refused(connection, DATA)) {
        if (!connection->rcpt_count) say(connection, "554 5.5.1 no valid recipients\r\n");
        else {
            say(connection, "354 go\r\n");
            connection->reading_body = true;
            connection->header_seen = connection->begun = false;
            connection->sent_us = 0;
            connection->body_bytes = 0;
        }
    }
    delay(connection, DATA);
}

static void command(struct connection *connection, const char *line, size_t length) {
    const char *argument = length > 5 ? line + 5 : "";
    size_t rest = length > 5 ? length - 5 : 0;
    if (length < 4) protocol_faults++, say(connection, "500 5.5.2 what?\r\n");
    else if (!strncasecmp(line, "RCPT", 4)) rcpt(connection, argument, rest);
    else if (!strncasecmp(line, "MAIL", 4)) {
        reset(connection);
        if (!refused(connection, MAIL)) say(connection, "250 2.1.0 ok\r\n");
        delay(connection, MAIL);
    } else if (!strncasecmp(line, "DATA", 4)) data(connection);
    else if (!strncasecmp(line, "EHLO", 4)) hello(connection, argument, rest, true);
    else if (!strncasecmp(line, "HELO", 4)) hello(connection, argument, rest, false);
    else if (!strncasecmp(line, "RSET", 4)) reset(connection), say(connection, "250 2.0.0 ok\r\n");
    else if (!strncasecmp(line, "NOOP", 4)) say(connection, "250 2.0.0 ok\r\n");
    else if (!strncasecmp(line, "QUIT", 4)) say(connection, "221 2.0.0 bye\r\n"), connection->closing = true;
    else protocol_faults++, say(connection, "502 5.5.1 not here\r\n");
}

/* The time source.c wrote into the header; more bytes wanted: false. */
static bool read_header(struct connection *connection, const char *start, size_t length) {
    const char *end = memmem(start, length, "\r\n\r\n", 4);
    if (!end && length < HEADER_ROOM && !memmem(start, length, "\r\n.\r\n", 5)) return false;
    const char *field = memmem(start, end ? (size_t)(end - start) : length, "\nX-Bench-Sent: ", 15);
    if (!field && length > 14 && !memcmp(start, "X-Bench-Sent: ", 14)) field = start - 1;
    for (field = field ? field + 15 : start; field != start && field < start + length && isdigit((unsigned char)*field); field++)
        connection->sent_us = connection->sent_us * 10 + (*field - '0');
    connection->header_seen = true;
    return true;
}

/* Bytes of the body used up; the final dot ends it. */
static size_t take_body(struct connection *connection, const char *start, size_t length) {
    if (!connection->header_seen && !(length >= 3 && !connection->begun && !memcmp(start, ".\r\n", 3)) && !read_header(connection, start, length)) return 0;
    const char *at = start, *limit = start + length;
    if (connection->begun) { /* what is left over from before begins behind a line end */
        at = memchr(start, '\n', length);
        at = at ? at + 1 : limit;
    }
    for (; at < limit; at++) { /* `at` is the first byte of a line */
        if (*at == '.') {
            if (limit - at < 3) {
                if (!memcmp(at, ".\r", (size_t)(limit - at))) break;
            } else if (at[1] == '\r' && at[2] == '\n' && (at == start || (at - start >= 2 && at[-2] == '\r'))) {
                connection->body_bytes += (uint64_t)(at - start);
                end_of_body(connection);
                return (size_t)(at + 3 - start);
            }
        }
        at = memchr(at, '\n', (size_t)(limit - at));
        if (!at) {
            at = limit;
            break;
        }
    }
    /* keep the last line end and the dot that may follow it */
    size_t keep = (size_t)(limit - at) + 2 < length ? (size_t)(limit - at) + 2 : length;
    connection->begun = true;
    connection->body_bytes += length - keep;
    return length - keep;
}

static void parse(struct connection *connection) {
    size_t at = 0;
    while (connection->delayed < 0 && !connection->closing && connection->out_length < OUT_ROOM - 512 && at < connection->in_length) {
        if (connection->reading_body) {
            size_t taken = take_body(connection, connection->in + at, connection->in_length - at);
            at += taken;
            if (connection->reading_body) break;
        } else {
            char *line = connection->in + at, *end = memchr(line, '\n', connection->in_length - at);
            if (!end) break;
            at = (size_t)(end + 1 - connection->in);
            command(connection, line, (size_t)(end - line) - (end > line && end[-1] == '\r'));
        }
    }
    memmove(connection->in, connection->in + at, connection->in_length - at);
    connection->in_length -= at;
}

/* Parse and answer until more input, room for output or a delay is waited for; false when the connection is gone. */
static bool proceed(struct connection *connection) {
    do {
        parse(connection);
        if (connection->delayed >= 0 || !connection->out_length) return true;
        if (!flush(connection)) return false;
    } while (!connection->paused && !connection->reading_body && memchr(connection->in, '\n', connection->in_length));
    return true;
}

static void readable(struct connection *connection) {
    ssize_t got = recv(connection->fd, connection->in + connection->in_length, IN_ROOM - connection->in_length, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        hang_up(connection);
        return;
    }
    connection->in_length += (size_t)got;
    if (!proceed(connection)) return;
    if (connection->in_length == IN_ROOM && !connection->paused) {
        protocol_faults++;
        hang_up(connection);
    }
}

static void accept_all(int listener) {
    for (int turn = 0; turn < 64; turn++) {
        struct sockaddr_in from;
        socklen_t size = sizeof from;
        int fd = accept4(listener, (struct sockaddr *)&from, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        accepted_connections++;
        if (option.max_connections && open_connections >= option.max_connections) {
            refused_connections++;
            if (send(fd, "421 4.7.0 too many connections\r\n", 32, MSG_NOSIGNAL) < 0) protocol_faults++;
            close(fd);
            continue;
        }
        struct connection *connection = spare;
        if (connection) spare = connection->next;
        else if (!(connection = calloc(1, sizeof *connection))) die("out of memory");
        connection->fd = fd;
        connection->ip = from.sin_addr.s_addr;
        connection->peer = NULL;
        connection->in_length = connection->out_length = connection->out_at = connection->rcpt_count = 0;
        connection->reading_body = connection->closing = connection->paused = false;
        connection->delayed = -1;
        if (++open_connections > peak_connections) peak_connections = open_connections;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl: %s", strerror(errno));
        if (!refused(connection, GREETING)) say(connection, "220 sink.example ESMTP\r\n");
        delay(connection, GREETING);
        if (connection->delayed < 0) flush(connection);
    }
}

/* Let go what has been delayed long enough; returns ms until the next, or -1. */
static int release(void) {
    int64_t now = now_us(), soonest = INT64_MAX;
    for (int stage = 0; stage < STAGES; stage++) {
        struct connection *connection;
        while ((connection = delays[stage].head) && connection->due_us <= now) {
            if (!(delays[stage].head = connection->next)) delays[stage].tail = NULL;
            connection->delayed = -1;
            if (connection->fd < 0) {
                connection->next = spare;
                spare = connection;
                continue;
            }
            if (flush(connection) && !connection->paused) proceed(connection);
        }
        if (connection && connection->due_us < soonest) soonest = connection->due_us;
    }
    return soonest == INT64_MAX ? -1 : (int)((soonest - now) / 1000 + 1);
}

static void set_reply(const char *text) { /* STAGE=CODE TEXT, or STAGE CODE TEXT */
    for (int stage = 0; stage < STAGES; stage++) {
        size_t length = strlen(STAGE_NAMES[stage]);
        if (strncmp(text, STAGE_NAMES[stage], length) == 0 && (text[length] == '=' || text[length] == ' ')) {
            snprintf(refusal[stage], sizeof refusal[stage], "%s", text + length + 1);
            refusing = true;
            return;
        }
    }
    fprintf(stderr, "reply: no such stage: %.40s\n", text);
}

static void toggle(bool refuse) {
    refusing = refuse;
    bool any = false;
    for (int stage = 0; stage < STAGES; stage++) any = any || refusal[stage][0];
    if (refuse && !any) set_reply("rcpt=451 4.3.0 try later");
}

static void controlled(void) {
    static char text[1024];
    static size_t length;
    ssize_t got = read(control_fd, text + length, sizeof text - 1 - length);
    if (got <= 0) return;
    length += (size_t)got;
    text[length] = '\0';
    char *line = text, *end;
    for (; (end = strchr(line, '\n')); line = end + 1) {
        *end = '\0';
        if (!strcmp(line, "accept")) toggle(false);
        else if (!strcmp(line, "refuse")) toggle(true);
        else if (!strcmp(line, "report")) report();
        else if (!strncmp(line, "reply ", 6)) set_reply(line + 6);
        else fprintf(stderr, "control: not understood: %.40s\n", line);
    }
    length -= (size_t)(line - text);
    memmove(text, line, length);
    if (length == sizeof text - 1) length = 0;
}

static void listen_on(const char *text) {
    struct sockaddr_in address = address_argument(text, "listen");
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    if (listener_count == 64) die("--listen: at most 64");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* accepted sockets inherit it */
    if (bind(fd, (struct sockaddr *)&address, size) || listen(fd, 4096)) die("--listen %s: %s", text, strerror(errno));
    getsockname(fd, (struct sockaddr *)&address, &size);
    char ip[INET_ADDRSTRLEN];
    printf("listening %s:%d\n", inet_ntop(AF_INET, &address.sin_addr, ip, sizeof ip), ntohs(address.sin_port));
    listeners[listener_count++] = fd;
}

static void options(int argc, char **argv) {
    static const struct option LONG[] = {{"listen", 1, 0, 'l'},  {"reply", 1, 0, 'r'},   {"delay", 1, 0, 'd'},   {"max-connections", 1, 0, 'm'}, {"no-pipelining", 0, 0, 'p'}, {"counts", 1, 0, 'c'},
                                         {"times", 1, 0, 't'},   {"summary", 1, 0, 's'}, {"live", 1, 0, 'v'},    {"control", 1, 0, 'k'},         {0, 0, 0, 0}};
    for (int c; (c = getopt_long(argc, argv, "", LONG, NULL)) != -1;) switch (c) {
        case 'l': listen_on(optarg); break;
        case 'r': set_reply(optarg); break;
        case 'm': option.max_connections = number_argument(optarg, "max-connections", 1); break;
        case 'p': option.no_pipelining = true; break;
        case 'c': option.counts = optarg; break;
        case 't': option.times = optarg; break;
        case 's': option.summary = optarg; break;
        case 'v': option.live = optarg; break;
        case 'k': option.control = optarg; break;
        case 'd': {
            int stage = 0;
            for (size_t n; stage < STAGES; stage++)
                if (n = strlen(STAGE_NAMES[stage]), !strncmp(optarg, STAGE_NAMES[stage], n) && optarg[n] == '=') {
                    option.delay_us[stage] = number_argument(optarg + n + 1, "delay", 0) * 1000;
                    break;
                }
            if (stage == STAGES) die("--delay STAGE=MS: no such stage in '%s'", optarg);
            break;
        }
        default: die("see bench/README.md for the options of bench/sink.c");
        }
    if (!listener_count) die("--listen IPv4:PORT is missing");
}

static void prepare(void) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGUSR2);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal_fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &signal_fd};
    epoll_ctl(epoll, EPOLL_CTL_ADD, signal_fd, &event);
    if (option.control) {
        if (mkfifo(option.control, 0600) && errno != EEXIST) die("%s: %s", option.control, strerror(errno));
        control_fd = open(option.control, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        if (control_fd < 0) die("%s: %s", option.control, strerror(errno));
        event.data.ptr = &control_fd;
        epoll_ctl(epoll, EPOLL_CTL_ADD, control_fd, &event);
    }
    for (int i = 0; i < listener_count; i++) {
        event.data.ptr = &listeners[i];
        epoll_ctl(epoll, EPOLL_CTL_ADD, listeners[i], &event);
    }
    live = live_counters(option.live, 3);
    printf("ready\n");
    fflush(stdout);
}

static bool signalled(void) { /* true: end */
    struct signalfd_siginfo info;
    while (read(signal_fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGUSR2) toggle(!refusing);
        else report();
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) return true;
    }
    return false;
}

int main(int argc, char **argv) {
    options(argc, argv);
    never_interrupt();
    prepare();
    struct epoll_event events[256];
    for (;;) {
        int ready = epoll_wait(epoll, events, 256, release());
        for (int i = 0; i < ready; i++) {
            void *what = events[i].data.ptr;
            if (what == &signal_fd) {
                if (signalled()) return 0;
            } else if (what == &control_fd) controlled();
            else if ((int *)what >= listeners && (int *)what < listeners + listener_count) accept_all(*(int *)what);
            else {
                struct connection *connection = what;
                if (connection->fd < 0) continue;
                if (events[i].events & (EPOLLHUP | EPOLLERR) && connection->paused) hang_up(connection);
                else if (events[i].events & EPOLLOUT) {
                    if (flush(connection) && !connection->paused) proceed(connection);
                }
                else if (events[i].events & EPOLLIN) readable(connection);
            }
        }
    }
}
