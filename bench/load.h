/* What source.c and sink.c share: clock, errors, live counters, percentiles.  C11, Linux. */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <sched.h>
#include <arpa/inet.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define MAX_NUMBER (UINT64_C(1) << 28) /* no message or recipient number lies at or beyond it: bounds every table */

static inline __attribute__((noreturn, format(printf, 1, 2))) void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(2);
}

/* Microseconds on the one monotonic clock that all processes of a machine share. */
static inline int64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* Never interrupt what is measured: on another machine, where clients and peers live, it would not be interrupted either.  On a shared core
 * every reply would otherwise wake us in the middle of the other's round, one switch to and fro per command. */
static inline void never_interrupt(void) {
    struct sched_param none = {0};
    sched_setscheduler(0, SCHED_BATCH, &none);
}

static inline int64_t own_cpu_us(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (int64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

static inline long number_argument(const char *text, const char *name, long least) {
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || *end || end == text || value < least) die("--%s: '%s' is not a number of at least %ld", name, text, least);
    return value;
}

static inline struct sockaddr_in address_argument(const char *text, const char *name) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    char host[64];
    const char *colon = strrchr(text, ':');
    size_t length = colon ? (size_t)(colon - text) : 0;
    if (!colon || length == 0 || length >= sizeof host) die("--%s: '%s' is not IPv4:PORT", name, text);
    memcpy(host, text, length);
    host[length] = '\0';
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) die("--%s: '%s' is not an IPv4 address", name, host);
    address.sin_port = htons((uint16_t)number_argument(colon + 1, name, 0));
    return address;
}

/* A file of 64-bit counters that another process may read at any time through a mapping of its own. */
static inline volatile uint64_t *live_counters(const char *path, size_t count) {
    if (!path) return calloc(count, sizeof(uint64_t));
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0 || ftruncate(fd, (off_t)(count * sizeof(uint64_t))) < 0) die("%s: %s", path, strerror(errno));
    void *memory = mmap(NULL, count * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) die("%s: %s", path, strerror(errno));
    close(fd);
    return memory;
}

static inline void write_file(const char *path, const void *data, size_t size) {
    char part[4096];
    if (snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part) die("%s: path too long", path);
    FILE *file = fopen(part, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) || rename(part, path)) die("%s: %s", path, strerror(errno));
}

static inline int compare_u32(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

/* The values so far, bounded by the number of messages; sorted in place when percentiles are printed. */
struct samples {
    uint32_t *values;
    size_t count, room;
};

static inline void samples_add(struct samples *samples, int64_t value) {
    if (samples->count == samples->room) {
        samples->room = samples->room ? samples->room * 2 : 4096;
        samples->values = realloc(samples->values, samples->room * sizeof(uint32_t));
        if (!samples->values) die("out of memory");
    }
    samples->values[samples->count++] = value < 0 ? 0 : value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

static inline void samples_print(FILE *out, const char *name, struct samples *samples) {
    size_t n = samples->count;
    qsort(samples->values, n, sizeof(uint32_t), compare_u32);
    fprintf(out, "\"%s\": {\"count\": %zu, \"p50\": %u, \"p99\": %u, \"max\": %u}", name, n, n ? samples->values[n / 2] : 0,
            n ? samples->values[n - 1 - n / 100] : 0, n ? samples->values[n - 1] : 0);
}

#endif
