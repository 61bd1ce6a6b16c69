/* Writes down every file operation below a folder, with its data, and every answer on a socket.
 *
 * Preloaded (LD_PRELOAD) into the process that is watched. RECORDER_ROOT is the folder, an absolute
 * path without links; RECORDER_LOG the file that takes the records, outside of it.
 *
 * An operation is written down after it has happened, an answer before it is sent: what stands
 * before an answer in the log had happened when the answer was given. A sync has a begin and an end,
 * because it covers only what was written before its begin.
 *
 * A file is named by /proc/self/fd at the time of each operation, so no table of descriptors can go
 * stale. What cannot be followed (io_uring, copy_file_range, ...) is refused or written down as 'X',
 * and the replayer gives up on such a recording.
 *
 * A record is a header (struct record), path, second path and data.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define ANSWER_NBYTES 16

struct record {
    char op;
    uint32_t path_nbytes, other_nbytes;
    uint64_t a, b, nbytes;
} __attribute__((packed));

static int log_fd = -1;
static char root[PATH_MAX];
static size_t root_nbytes;
static uint64_t syncs;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Held over a change of names and its record, so that they are written down in their order. */
static pthread_mutex_t names = PTHREAD_MUTEX_INITIALIZER;

#define REAL(type, name) \
    static __typeof__(type) real; \
    if (!real) real = (__typeof__(type))dlsym(RTLD_NEXT, name)

typedef ssize_t (*write_t)(int, const void *, size_t);
typedef ssize_t (*writev_t)(int, const struct iovec *, int);

static ssize_t real_writev(int fd, const struct iovec *parts, int count) {
    REAL(writev_t, "writev");
    return real(fd, parts, count);
}

__attribute__((constructor)) static void start(void) {
    const char *folder = getenv("RECORDER_ROOT"), *log = getenv("RECORDER_LOG");
    if (!folder || !log) return;
    snprintf(root, sizeof root, "%s", folder);
    root_nbytes = strlen(root);
    syncs = (uint64_t)getpid() << 32;
    log_fd = syscall(SYS_openat, AT_FDCWD, log, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
}

static void record(char op, const char *path, const char *other, uint64_t a, uint64_t b,
                   const void *data, uint64_t nbytes) {
    if (log_fd < 0) return;
    int saved = errno;
    struct record head = {op, (uint32_t)strlen(path), (uint32_t)strlen(other), a, b, nbytes};
    struct iovec parts[4] = {{&head, sizeof head},
                             {(void *)path, head.path_nbytes},
                             {(void *)other, head.other_nbytes},
                             {(void *)data, nbytes}};
    size_t total = sizeof head + head.path_nbytes + head.other_nbytes + nbytes;
    pthread_mutex_lock(&lock);
    ssize_t done = real_writev(log_fd, parts, 4);
    pthread_mutex_unlock(&lock);
    if (done != (ssize_t)total) {
        static const char text[] = "recorder: the log cannot be written\n";
        struct iovec message = {(void *)text, sizeof text - 1};
        real_writev(2, &message, 1);
        abort();
    }
    errno = saved;
}

static int below(const char *path) {
    return root_nbytes && !strncmp(path, root, root_nbytes) &&
           (path[root_nbytes] == '/' || !path[root_nbytes]);
}

/* Where the descriptor leads: 1 if below the folder, else 0; `path` is filled in both cases. */
static int where(int fd, char path[PATH_MAX]) {
    char link[64];
    path[0] = 0;
    if (log_fd < 0 || fd < 0) return 0;
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t count = readlink(link, path, PATH_MAX - 1);
    errno = saved;
    path[count > 0 ? count : 0] = 0;
    return below(path);
}

/* The absolute path of `name` relative to the descriptor of a folder. */
static int resolve(int folder, const char *name, char path[PATH_MAX]) {
    char base[PATH_MAX] = "";
    if (log_fd < 0) return 0;
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else {
        if (folder == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) base[0] = 0;
        } else {
            where(folder, base);
        }
        if (strlen(base) + strlen(name) + 2 > PATH_MAX) return 0;
        strcpy(path, base);
        strcat(path, "/");
        strcat(path, name);
    }
    return below(path);
}

static void answer(int fd, const struct iovec *parts, int count) {
    char path[PATH_MAX], head[ANSWER_NBYTES];
    if (where(fd, path) || strncmp(path, "socket:", 7)) return;
    int saved = errno;
    struct sockaddr_storage peer;
    socklen_t size = sizeof peer;
    if (!getpeername(fd, (struct sockaddr *)&peer, &size) &&
        (peer.ss_family == AF_INET || peer.ss_family == AF_INET6)) {
        uint16_t port = peer.ss_family == AF_INET ? ((struct sockaddr_in *)&peer)->sin_port
                                                  : ((struct sockaddr_in6 *)&peer)->sin6_port;
        uint64_t total = 0, kept = 0;
        for (int i = 0; i < count; i++) {
            size_t take = ANSWER_NBYTES - kept;
            if (take > parts[i].iov_len) take = parts[i].iov_len;
            memcpy(head + kept, parts[i].iov_base, take);
            kept += take;
            total += parts[i].iov_len;
        }
        record('A', "", "", ntohs(port), total, head, kept);
    }
    errno = saved;
}

static void written(int fd, const void *data, ssize_t done, int64_t offset) {
    char path[PATH_MAX];
    if (done <= 0 || !where(fd, path)) return;
    if (offset < 0) offset = lseek(fd, 0, SEEK_CUR) - done;
    record('W', path, "", (uint64_t)offset, 0, data, (uint64_t)done);
}

static void written_parts(int fd, const struct iovec *parts, int count, ssize_t done,
                          int64_t offset) {
    char path[PATH_MAX];
    if (done <= 0 || !where(fd, path)) return;
    if (offset < 0) offset = lseek(fd, 0, SEEK_CUR) - done;
    for (int i = 0; i < count && done > 0; i++) {
        size_t take = (size_t)done < parts[i].iov_len ? (size_t)done : parts[i].iov_len;
        record('W', path, "", (uint64_t)offset, 0, parts[i].iov_base, take);
        offset += (int64_t)take;
        done -= (ssize_t)take;
    }
}

static void unfollowed(int fd, const char *what) {
    char path[PATH_MAX];
    if (where(fd, path)) record('X', path, what, 0, 0, "", 0);
}

/* ------------------------------------------------------------------ opening */

static void opened(int fd, uint64_t flags) {
    char path[PATH_MAX];
    if (fd < 0 || !(flags & (O_CREAT | O_TRUNC | O_TMPFILE)) || !where(fd, path)) return;
    if ((flags & O_TMPFILE) == O_TMPFILE) record('X', path, "O_TMPFILE", 0, 0, "", 0);
    if (flags & O_CREAT) record('C', path, "", flags, 0, "", 0);
    if (flags & O_TRUNC) record('T', path, "", 0, 0, "", 0);
}

#define MODE(flags) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int (*)(const char *, int, ...), #name); \
        MODE(flags) \
        if (flags & O_CREAT) pthread_mutex_lock(&names); \
        int fd = real(path, flags, mode); \
        opened(fd, (uint64_t)flags); \
        if (flags & O_CREAT) pthread_mutex_unlock(&names); \
        return fd; \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(int (*)(int, const char *, int, ...), #name); \
        MODE(flags) \
        if (flags & O_CREAT) pthread_mutex_lock(&names); \
        int fd = real(folder, path, flags, mode); \
        opened(fd, (uint64_t)flags); \
        if (flags & O_CREAT) pthread_mutex_unlock(&names); \
        return fd; \
    }
OPENAT(openat)
OPENAT(openat64)

/* ------------------------------------------------------------------ writing */

ssize_t write(int fd, const void *data, size_t nbytes) {
    REAL(write_t, "write");
    struct iovec part = {(void *)data, nbytes};
    answer(fd, &part, 1);
    ssize_t done = real(fd, data, nbytes);
    written(fd, data, done, -1);
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    answer(fd, parts, count);
    ssize_t done = real_writev(fd, parts, count);
    written_parts(fd, parts, count, done, -1);
    return done;
}

#define PWRITE(name, offset_t) \
    ssize_t name(int fd, const void *data, size_t nbytes, offset_t offset) { \
        REAL(ssize_t (*)(int, const void *, size_t, offset_t), #name); \
        ssize_t done = real(fd, data, nbytes, offset); \
        written(fd, data, done, offset); \
        return done; \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define PWRITEV(name, offset_t) \
    ssize_t name(int fd, const struct iovec *parts, int count, offset_t offset) { \
        REAL(ssize_t (*)(int, const struct iovec *, int, offset_t), #name); \
        ssize_t done = real(fd, parts, count, offset); \
        written_parts(fd, parts, count, done, offset); \
        return done; \
    }
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)

#define PWRITEV2(name, offset_t) \
    ssize_t name(int fd, const struct iovec *parts, int count, offset_t offset, int flags) { \
        REAL(ssize_t (*)(int, const struct iovec *, int, offset_t, int), #name); \
        ssize_t done = real(fd, parts, count, offset, flags); \
        if (flags) unfollowed(fd, #name " with flags"); \
        written_parts(fd, parts, count, done, offset); \
        return done; \
    }
PWRITEV2(pwritev2, off_t)
PWRITEV2(pwritev64v2, off64_t)

#define FTRUNCATE(name, offset_t) \
    int name(int fd, offset_t nbytes) { \
        REAL(int (*)(int, offset_t), #name); \
        int failed = real(fd, nbytes); \
        char path[PATH_MAX]; \
        if (!failed && where(fd, path)) record('T', path, "", (uint64_t)nbytes, 0, "", 0); \
        return failed; \
    }
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)

#define TRUNCATE(name, offset_t) \
    int name(const char *name_, offset_t nbytes) { \
        REAL(int (*)(const char *, offset_t), #name); \
        int failed = real(name_, nbytes); \
        char path[PATH_MAX]; \
        if (!failed && resolve(AT_FDCWD, name_, path)) \
            record('T', path, "", (uint64_t)nbytes, 0, "", 0); \
        return failed; \
    }
TRUNCATE(truncate, off_t)
TRUNCATE(truncate64, off64_t)

static void allocated(int fd, int mode, int64_t offset, int64_t nbytes) {
    char path[PATH_MAX];
    if (!where(fd, path)) return;
    if (mode & ~FALLOC_FL_KEEP_SIZE) record('X', path, "fallocate with a mode", 0, 0, "", 0);
    if (!mode) record('F', path, "", (uint64_t)offset, (uint64_t)nbytes, "", 0);
}

#define FALLOCATE(name, offset_t) \
    int name(int fd, int mode, offset_t offset, offset_t nbytes) { \
        REAL(int (*)(int, int, offset_t, offset_t), #name); \
        int failed = real(fd, mode, offset, nbytes); \
        if (!failed) allocated(fd, mode, offset, nbytes); \
        return failed; \
    }
FALLOCATE(fallocate, off_t)
FALLOCATE(fallocate64, off64_t)

#define POSIX_FALLOCATE(name, offset_t) \
    int name(int fd, offset_t offset, offset_t nbytes) { \
        REAL(int (*)(int, offset_t, offset_t), #name); \
        int failed = real(fd, offset, nbytes); \
        if (!failed) allocated(fd, 0, offset, nbytes); \
        return failed; \
    }
POSIX_FALLOCATE(posix_fallocate, off_t)
POSIX_FALLOCATE(posix_fallocate64, off64_t)

#define UNFOLLOWED(type, name, fd, declared, passed) \
    type name declared { \
        REAL(type(*) declared, #name); \
        unfollowed(fd, #name); \
        return real passed; \
    }
UNFOLLOWED(ssize_t, copy_file_range, to,
           (int from, off64_t *from_at, int to, off64_t *to_at, size_t nbytes, unsigned flags),
           (from, from_at, to, to_at, nbytes, flags))
UNFOLLOWED(ssize_t, splice, to,
           (int from, off64_t *from_at, int to, off64_t *to_at, size_t nbytes, unsigned flags),
           (from, from_at, to, to_at, nbytes, flags))
UNFOLLOWED(ssize_t, sendfile, to, (int to, int from, off_t *offset, size_t nbytes),
           (to, from, offset, nbytes))
UNFOLLOWED(ssize_t, sendfile64, to, (int to, int from, off64_t *offset, size_t nbytes),
           (to, from, offset, nbytes))

/* ------------------------------------------------------------------ syncing */

#define SYNC(name) \
    int name(int fd) { \
        REAL(int (*)(int), #name); \
        char path[PATH_MAX]; \
        int recorded = where(fd, path); \
        uint64_t token = recorded ? __atomic_add_fetch(&syncs, 1, __ATOMIC_SEQ_CST) : 0; \
        if (recorded) record('B', path, #name, token, 0, "", 0); \
        int failed = real(fd); \
        if (recorded && !failed) record('S', path, #name, token, 0, "", 0); \
        return failed; \
    }
SYNC(fsync)
SYNC(fdatasync)

/* ------------------------------------------------------------------ names */

static void renamed(int from_folder, const char *from, int to_folder, const char *to,
                    unsigned flags) {
    char path[PATH_MAX], other[PATH_MAX];
    int left = resolve(from_folder, from, path), right = resolve(to_folder, to, other);
    if (!left && !right) return;
    if (left != right || (flags & ~RENAME_NOREPLACE))
        record('X', path, "rename across the border or with flags", 0, 0, "", 0);
    record('R', path, other, flags, 0, "", 0);
}

int rename(const char *from, const char *to) {
    REAL(int (*)(const char *, const char *), "rename");
    pthread_mutex_lock(&names);
    int failed = real(from, to);
    if (!failed) renamed(AT_FDCWD, from, AT_FDCWD, to, 0);
    pthread_mutex_unlock(&names);
    return failed;
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    REAL(int (*)(int, const char *, int, const char *), "renameat");
    pthread_mutex_lock(&names);
    int failed = real(from_folder, from, to_folder, to);
    if (!failed) renamed(from_folder, from, to_folder, to, 0);
    pthread_mutex_unlock(&names);
    return failed;
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    REAL(int (*)(int, const char *, int, const char *, unsigned), "renameat2");
    pthread_mutex_lock(&names);
    int failed = real(from_folder, from, to_folder, to, flags);
    if (!failed) renamed(from_folder, from, to_folder, to, flags);
    pthread_mutex_unlock(&names);
    return failed;
}

static void linked(int from_folder, const char *from, int to_folder, const char *to) {
    char path[PATH_MAX], other[PATH_MAX];
    int left = resolve(from_folder, from, path), right = resolve(to_folder, to, other);
    if (right) record(left ? 'L' : 'X', path, left ? other : "link from outside", 0, 0, "", 0);
}

int link(const char *from, const char *to) {
    REAL(int (*)(const char *, const char *), "link");
    pthread_mutex_lock(&names);
    int failed = real(from, to);
    if (!failed) linked(AT_FDCWD, from, AT_FDCWD, to);
    pthread_mutex_unlock(&names);
    return failed;
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    REAL(int (*)(int, const char *, int, const char *, int), "linkat");
    pthread_mutex_lock(&names);
    int failed = real(from_folder, from, to_folder, to, flags);
    if (!failed) linked(from_folder, from, to_folder, to);
    pthread_mutex_unlock(&names);
    return failed;
}

static void named(char op, int folder, const char *name) {
    char path[PATH_MAX];
    if (resolve(folder, name, path)) record(op, path, "", 0, 0, "", 0);
}

int unlink(const char *name) {
    REAL(int (*)(const char *), "unlink");
    pthread_mutex_lock(&names);
    int failed = real(name);
    if (!failed) named('U', AT_FDCWD, name);
    pthread_mutex_unlock(&names);
    return failed;
}

int unlinkat(int folder, const char *name, int flags) {
    REAL(int (*)(int, const char *, int), "unlinkat");
    pthread_mutex_lock(&names);
    int failed = real(folder, name, flags);
    if (!failed) named(flags & AT_REMOVEDIR ? 'E' : 'U', folder, name);
    pthread_mutex_unlock(&names);
    return failed;
}

int rmdir(const char *name) {
    REAL(int (*)(const char *), "rmdir");
    pthread_mutex_lock(&names);
    int failed = real(name);
    if (!failed) named('E', AT_FDCWD, name);
    pthread_mutex_unlock(&names);
    return failed;
}

int mkdir(const char *name, mode_t mode) {
    REAL(int (*)(const char *, mode_t), "mkdir");
    pthread_mutex_lock(&names);
    int failed = real(name, mode);
    if (!failed) named('D', AT_FDCWD, name);
    pthread_mutex_unlock(&names);
    return failed;
}

int mkdirat(int folder, const char *name, mode_t mode) {
    REAL(int (*)(int, const char *, mode_t), "mkdirat");
    pthread_mutex_lock(&names);
    int failed = real(folder, name, mode);
    if (!failed) named('D', folder, name);
    pthread_mutex_unlock(&names);
    return failed;
}

static void symbolic(int folder, const char *name) {
    char path[PATH_MAX];
    if (resolve(folder, name, path)) record('X', path, "symbolic link", 0, 0, "", 0);
}

int symlink(const char *target, const char *name) {
    REAL(int (*)(const char *, const char *), "symlink");
    pthread_mutex_lock(&names);
    int failed = real(target, name);
    if (!failed) symbolic(AT_FDCWD, name);
    pthread_mutex_unlock(&names);
    return failed;
}

int symlinkat(const char *target, int folder, const char *name) {
    REAL(int (*)(const char *, int, const char *), "symlinkat");
    pthread_mutex_lock(&names);
    int failed = real(target, folder, name);
    if (!failed) symbolic(folder, name);
    pthread_mutex_unlock(&names);
    return failed;
}

/* ------------------------------------------------------------------ answering */

ssize_t send(int fd, const void *data, size_t nbytes, int flags) {
    REAL(ssize_t (*)(int, const void *, size_t, int), "send");
    struct iovec part = {(void *)data, nbytes};
    answer(fd, &part, 1);
    return real(fd, data, nbytes, flags);
}

ssize_t sendto(int fd, const void *data, size_t nbytes, int flags, const struct sockaddr *to,
               socklen_t size) {
    REAL(ssize_t (*)(int, const void *, size_t, int, const struct sockaddr *, socklen_t), "sendto");
    struct iovec part = {(void *)data, nbytes};
    answer(fd, &part, 1);
    return real(fd, data, nbytes, flags, to, size);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    REAL(ssize_t (*)(int, const struct msghdr *, int), "sendmsg");
    answer(fd, message->msg_iov, (int)message->msg_iovlen);
    return real(fd, message, flags);
}

/* ------------------------------------------------------------------ system calls by number */

long syscall(long number, ...) {
    REAL(long (*)(long, ...), "syscall");
    long v[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++) v[i] = va_arg(rest, long);
    va_end(rest);
    switch (number) {
    case SYS_openat2: {
        uint64_t flags = ((struct open_how *)v[2])->flags;
        if (flags & O_CREAT) pthread_mutex_lock(&names);
        long fd = real(number, v[0], v[1], v[2], v[3]);
        opened((int)fd, flags);
        if (flags & O_CREAT) pthread_mutex_unlock(&names);
        return fd;
    }
    case SYS_renameat2:
        return renameat2((int)v[0], (const char *)v[1], (int)v[2], (const char *)v[3],
                         (unsigned)v[4]);
    case SYS_fsync:
        return fsync((int)v[0]);
    case SYS_fdatasync:
        return fdatasync((int)v[0]);
    case SYS_pwrite64:
        return pwrite64((int)v[0], (const void *)v[1], (size_t)v[2], v[3]);
#ifdef SYS_io_uring_setup
    case SYS_io_uring_setup:
        errno = ENOSYS;
        return -1;
#endif
    default:
        return real(number, v[0], v[1], v[2], v[3], v[4], v[5]);
    }
}
