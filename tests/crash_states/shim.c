/* Records what the process that has this in LD_PRELOAD does to the files below $CRASH_ROOT, in order, into $CRASH_RECORD.
 *
 * Each record is a struct head, then the first path, the second path and the data.  A call is recorded once it has returned and succeeded.  Calls
 * that could change such a file and that recorder.py has no meaning for are recorded as '?'.  After $CRASH_DIE_AT records the process is killed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PATH 4096

struct head {
    uint8_t kind; /* Write, Create, Truncate, Sync, Rename, Unlink, mkDir, rmdir '-', '?' */
    uint8_t synced; /* the write was through a descriptor with O_DSYNC or O_SYNC */
    uint16_t path_bytes, other_bytes, unused;
    uint64_t inode, offset, data_bytes;
};

static int record_fd = -1;
static long left = -1; /* records until death */
static char root[PATH];
static size_t root_bytes;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void)
{
    const char *record = getenv("CRASH_RECORD"), *below = getenv("CRASH_ROOT");
    if (!record || !below)
        return;
    root_bytes = strlen(below);
    if (root_bytes >= sizeof root)
        abort();
    memcpy(root, below, root_bytes + 1);
    record_fd = (int)syscall(SYS_openat, AT_FDCWD, record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (record_fd < 0)
        abort();
    if (getenv("CRASH_DIE_AT"))
        left = atol(getenv("CRASH_DIE_AT"));
}

static int is_ours(const char *path)
{
    return record_fd >= 0 && !strncmp(path, root, root_bytes) && (!path[root_bytes] || path[root_bytes] == '/');
}

static void put(const void *data, size_t size)
{
    const char *at = data;
    while (size) {
        long written = syscall(SYS_write, record_fd, at, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            abort();
        at += written;
        size -= (size_t)written;
    }
}

static void note(char kind, int synced, const char *path, const char *other, uint64_t inode, uint64_t offset, const struct iovec *parts, size_t size)
{
    int saved = errno;
    struct head head = {(uint8_t)kind, (uint8_t)synced, (uint16_t)strlen(path), (uint16_t)strlen(other), 0, inode, offset, size};
    pthread_mutex_lock(&lock);
    put(&head, sizeof head);
    put(path, head.path_bytes);
    put(other, head.other_bytes);
    for (; size; parts++) {
        size_t part = parts->iov_len < size ? parts->iov_len : size;
        put(parts->iov_base, part);
        size -= part;
    }
    if (left > 0 && !--left)
        kill(getpid(), SIGKILL);
    pthread_mutex_unlock(&lock);
    errno = saved;
}

/* The path of an open file below the root; 0 if it is none. */
static int path_of(int fd, char *path)
{
    char link[64];
    int saved = errno;
    ssize_t length;
    if (record_fd < 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, PATH - 1);
    errno = saved;
    if (length <= 0)
        return 0;
    path[length] = 0;
    return is_ours(path);
}

/* The absolute path of what a call names; a relative one is taken as below its directory's descriptor, or the working directory. */
static int absolute(int directory, const char *name, char *path)
{
    size_t length;
    if (record_fd < 0)
        return 0;
    if (*name == '/') {
        if (strlen(name) >= PATH)
            abort();
        strcpy(path, name);
        return is_ours(path);
    }
    if (directory == AT_FDCWD) {
        if (!getcwd(path, PATH))
            return 0;
    } else {
        char link[64];
        ssize_t found;
        snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        found = readlink(link, path, PATH - 1);
        if (found <= 0)
            return 0;
        path[found] = 0;
    }
    length = strlen(path);
    if (length + strlen(name) + 2 > PATH)
        abort();
    path[length] = '/';
    strcpy(path + length + 1, name);
    return is_ours(path);
}

static uint64_t inode_of(int fd)
{
    struct stat found;
    if (fstat(fd, &found))
        abort();
    return found.st_ino;
}

/* --- writes ---------------------------------------------------------------------------------------------------------------------------- */

static void wrote(int fd, const struct iovec *parts, off_t offset, ssize_t size)
{
    char path[PATH];
    if (size <= 0 || !path_of(fd, path))
        return;
    if (offset < 0)
        offset = lseek(fd, 0, SEEK_CUR) - size;
    note('W', (fcntl(fd, F_GETFL) & O_DSYNC) != 0, path, "", inode_of(fd), (uint64_t)offset, parts, (size_t)size);
}

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(write);
    struct iovec part = {(void *)data, size};
    ssize_t written = real(fd, data, size);
    wrote(fd, &part, -1, written);
    return written;
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REAL(writev);
    ssize_t written = real(fd, parts, count);
    wrote(fd, parts, -1, written);
    return written;
}

#define PWRITE(name, type) \
    ssize_t name(int fd, const void *data, size_t size, type offset) \
    { \
        REAL(name); \
        struct iovec part = {(void *)data, size}; \
        ssize_t written = real(fd, data, size, offset); \
        wrote(fd, &part, offset, written); \
        return written; \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define PWRITEV(name, type) \
    ssize_t name(int fd, const struct iovec *parts, int count, type offset) \
    { \
        REAL(name); \
        ssize_t written = real(fd, parts, count, offset); \
        wrote(fd, parts, offset, written); \
        return written; \
    }
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)

#define PWRITEV2(name, type) \
    ssize_t name(int fd, const struct iovec *parts, int count, type offset, int flags) \
    { \
        REAL(name); \
        ssize_t written = real(fd, parts, count, offset, flags); \
        wrote(fd, parts, offset, written); \
        return written; \
    }
PWRITEV2(pwritev2, off_t)
PWRITEV2(pwritev64v2, off64_t)

#define TRUNCATE(name, type) \
    int name(int fd, type size) \
    { \
        REAL(name); \
        char path[PATH]; \
        int result = real(fd, size); \
        if (!result && path_of(fd, path)) \
            note('T', 0, path, "", inode_of(fd), (uint64_t)size, NULL, 0); \
        return result; \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

/* --- syncs ----------------------------------------------------------------------------------------------------------------------------- */

#define SYNC(name) \
    int name(int fd) \
    { \
        REAL(name); \
        char path[PATH]; \
        int result = real(fd); \
        if (!result && path_of(fd, path)) \
            note('S', 0, path, "", inode_of(fd), 0, NULL, 0); \
        return result; \
    }
SYNC(fsync)
SYNC(fdatasync)

/* --- names ----------------------------------------------------------------------------------------------------------------------------- */

static int opened(int fd, int existed, const char *path, int flags)
{
    if (fd >= 0 && !existed)
        note('C', 0, path, "", inode_of(fd), 0, NULL, 0);
    else if (fd >= 0 && (flags & O_TRUNC) && (flags & O_ACCMODE) != O_RDONLY)
        note('T', 0, path, "", inode_of(fd), 0, NULL, 0);
    return fd;
}

#define MODE(flags, last) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, last); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

#define OPEN(name) \
    int name(const char *file, int flags, ...) \
    { \
        REAL(name); \
        MODE(flags, flags) \
        char path[PATH]; \
        int ours = absolute(AT_FDCWD, file, path), existed = !ours || !faccessat(AT_FDCWD, file, F_OK, AT_SYMLINK_NOFOLLOW); \
        int fd = real(file, flags, mode); \
        return ours ? opened(fd, existed, path, flags) : fd; \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int directory, const char *file, int flags, ...) \
    { \
        REAL(name); \
        MODE(flags, flags) \
        char path[PATH]; \
        int ours = absolute(directory, file, path), existed = !ours || !faccessat(directory, file, F_OK, AT_SYMLINK_NOFOLLOW); \
        int fd = real(directory, file, flags, mode); \
        return ours ? opened(fd, existed, path, flags) : fd; \
    }
OPENAT(openat)
OPENAT(openat64)

static int named(int result, char kind, int directory, const char *file)
{
    char path[PATH];
    if (!result && absolute(directory, file, path))
        note(kind, 0, path, "", 0, 0, NULL, 0);
    return result;
}

int mkdir(const char *file, mode_t mode)
{
    REAL(mkdir);
    return named(real(file, mode), 'D', AT_FDCWD, file);
}

int mkdirat(int directory, const char *file, mode_t mode)
{
    REAL(mkdirat);
    return named(real(directory, file, mode), 'D', directory, file);
}

int unlink(const char *file)
{
    REAL(unlink);
    return named(real(file), 'U', AT_FDCWD, file);
}

int unlinkat(int directory, const char *file, int flags)
{
    REAL(unlinkat);
    return named(real(directory, file, flags), flags & AT_REMOVEDIR ? '-' : 'U', directory, file);
}

int rmdir(const char *file)
{
    REAL(rmdir);
    return named(real(file), '-', AT_FDCWD, file);
}

static int renamed(int result, int from, const char *old, int to, const char *new)
{
    char path[PATH], other[PATH];
    int ours = !result && absolute(from, old, path);
    if (!result && (absolute(to, new, other) || ours))
        note(ours && is_ours(other) ? 'R' : '?', 0, path, other, 0, 0, NULL, 0);
    return result;
}

int rename(const char *old, const char *new)
{
    REAL(rename);
    return renamed(real(old, new), AT_FDCWD, old, AT_FDCWD, new);
}

int renameat(int from, const char *old, int to, const char *new)
{
    REAL(renameat);
    return renamed(real(from, old, to, new), from, old, to, new);
}

int renameat2(int from, const char *old, int to, const char *new, unsigned flags)
{
    REAL(renameat2);
    return renamed(real(from, old, to, new, flags), from, old, to, new);
}

/* --- what the model does not know: recorded so that nobody relies on it -------------------------------------------------------------------- */

static int unknown(int result, int fd, const char *call)
{
    char path[PATH];
    if (result >= 0 && path_of(fd, path))
        note('?', 0, path, call, 0, 0, NULL, 0);
    return result;
}

int fallocate(int fd, int mode, off_t offset, off_t size)
{
    REAL(fallocate);
    return unknown(real(fd, mode, offset, size), fd, "fallocate");
}

int posix_fallocate(int fd, off_t offset, off_t size)
{
    REAL(posix_fallocate);
    int result = real(fd, offset, size);
    unknown(-result, fd, "posix_fallocate");
    return result;
}

int posix_fallocate64(int fd, off64_t offset, off64_t size)
{
    REAL(posix_fallocate64);
    int result = real(fd, offset, size);
    unknown(-result, fd, "posix_fallocate");
    return result;
}

static void *mapped(void *result, int protection, int flags, int fd)
{
    if (result != MAP_FAILED && (protection & PROT_WRITE) && (flags & MAP_SHARED))
        unknown(0, fd, "mmap");
    return result;
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    REAL(mmap);
    return mapped(real(at, size, protection, flags, fd, offset), protection, flags, fd);
}

void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t offset)
{
    REAL(mmap64);
    return mapped(real(at, size, protection, flags, fd, offset), protection, flags, fd);
}
