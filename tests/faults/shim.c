/* Faults at the boundary of the operating system, for the process that has this in LD_PRELOAD.
 *
 * The file named by $FAULTS (at most 4095 bytes; mapped once, so a change of it counts at once, in every process) holds lines
 *     write 5 /bodies/      every write to a path that contains "/bodies/" fails with errno 5
 *     short 0 /acct         every write to such a path writes half of it
 *     sync | read | open    likewise
 *     socket 23 -           socket() and accept() fail
 *     clock 86400 -         the wall clock is that many seconds ahead (behind, if negative)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SIZE 4096

static const char *faults;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAULTS");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED)
        faults = map;
    close(fd);
}

/* Whether a line is for this call and this path; *number is the second word of the first such line. */
static int hit(const char *call, const char *path, long *number)
{
    char word[16], part[256];
    const char *line = faults;
    while (line && *line) {
        if (sscanf(line, "%15s %ld %255s", word, number, part) == 3 && !strcmp(word, call) && (!path || strstr(path, part)))
            return 1;
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
    }
    return 0;
}

static int hit_fd(const char *call, int fd, long *number)
{
    char link[64], path[512];
    int saved = errno, found = 0;
    if (!faults || !*faults)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length > 0) {
        path[length] = 0;
        found = hit(call, path, number);
    }
    errno = saved;
    return found;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
        real = dlsym(RTLD_NEXT, #name)
#define FAIL_FD(call, fd) \
    do { \
        long number; \
        if (hit_fd(call, fd, &number)) { \
            errno = (int)number; \
            return -1; \
        } \
    } while (0)

static size_t half(int fd, size_t count)
{
    long number;
    return count > 1 && hit_fd("short", fd, &number) ? count / 2 : count;
}

ssize_t write(int fd, const void *data, size_t count) { REAL(write); FAIL_FD("write", fd); return real(fd, data, half(fd, count)); }
ssize_t pwrite(int fd, const void *data, size_t count, off_t at) { REAL(pwrite); FAIL_FD("write", fd); return real(fd, data, half(fd, count), at); }
ssize_t pwrite64(int fd, const void *data, size_t count, off64_t at) { REAL(pwrite64); FAIL_FD("write", fd); return real(fd, data, half(fd, count), at); }
ssize_t writev(int fd, const struct iovec *parts, int count) { REAL(writev); FAIL_FD("write", fd); return real(fd, parts, (int)half(fd, count)); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { REAL(pwritev); FAIL_FD("write", fd); return real(fd, parts, (int)half(fd, count), at); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) { REAL(pwritev64); FAIL_FD("write", fd); return real(fd, parts, (int)half(fd, count), at); }
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t at, int flags) { REAL(pwritev2); FAIL_FD("write", fd); return real(fd, parts, (int)half(fd, count), at, flags); }
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags) { REAL(pwritev64v2); FAIL_FD("write", fd); return real(fd, parts, (int)half(fd, count), at, flags); }
int fsync(int fd) { REAL(fsync); FAIL_FD("sync", fd); return real(fd); }
int fdatasync(int fd) { REAL(fdatasync); FAIL_FD("sync", fd); return real(fd); }
ssize_t read(int fd, void *data, size_t count) { REAL(read); FAIL_FD("read", fd); return real(fd, data, count); }
ssize_t pread(int fd, void *data, size_t count, off_t at) { REAL(pread); FAIL_FD("read", fd); return real(fd, data, count, at); }
ssize_t pread64(int fd, void *data, size_t count, off64_t at) { REAL(pread64); FAIL_FD("read", fd); return real(fd, data, count, at); }

#define OPEN(name, declared, given) \
    int name declared \
    { \
        REAL(name); \
        long number; \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list rest; \
            va_start(rest, flags); \
            mode = (mode_t)va_arg(rest, int); \
            va_end(rest); \
        } \
        if (hit("open", path, &number)) { \
            errno = (int)number; \
            return -1; \
        } \
        return real given; \
    }
OPEN(open, (const char *path, int flags, ...), (path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode))
OPEN(openat, (int directory, const char *path, int flags, ...), (directory, path, flags, mode))
OPEN(openat64, (int directory, const char *path, int flags, ...), (directory, path, flags, mode))

#define SOCKET(name, declared, given) \
    int name declared \
    { \
        REAL(name); \
        long number; \
        if (hit("socket", NULL, &number)) { \
            errno = (int)number; \
            return -1; \
        } \
        return real given; \
    }
SOCKET(socket, (int domain, int type, int protocol), (domain, type, protocol))
SOCKET(accept, (int fd, struct sockaddr *restrict peer, socklen_t *restrict size), (fd, peer, size))
SOCKET(accept4, (int fd, struct sockaddr *restrict peer, socklen_t *restrict size, int flags), (fd, peer, size, flags))

int clock_gettime(clockid_t clock, struct timespec *now)
{
    REAL(clock_gettime);
    long seconds;
    int result = real(clock, now);
    if (!result && clock == CLOCK_REALTIME && hit("clock", NULL, &seconds))
        now->tv_sec += seconds;
    return result;
}
