/* Makes the n-th storage call on files below one folder fail. Knows the C library, nothing of the index.
 *
 * Loaded with LD_PRELOAD. faults_arm(n, kind) is called from the program under test; every write, pwrite, fwrite, fsync,
 * fdatasync, ftruncate and rename on a path below FAULT_DIR counts. kind: 1 = ENOSPC, 2 = EIO, 3 = half of the bytes are
 * written and the next call fails with ENOSPC (short write), 4 = SIGKILL of the own process before the call.
 * From the n-th call on every call fails (a full or broken disk stays so) until faults_arm(0, 0).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static long calls, fail_at, kind;

void faults_arm(long n, long new_kind) { calls = 0; fail_at = n; kind = new_kind; }
long faults_calls(void) { return calls; }

static int below(const char *path) {
    const char *folder = getenv("FAULT_DIR");
    return folder && strncmp(path, folder, strlen(folder)) == 0;
}

static int watched(int descriptor) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

/* 0: go on, 1: fail with errno set, 2: write half */
static int verdict(void) {
    calls++;
    if (fail_at == 0 || calls < fail_at) return 0;
    if (kind == 4) kill(getpid(), SIGKILL);
    if (kind == 3 && calls == fail_at) return 2;
    errno = kind == 2 ? EIO : ENOSPC;
    return 1;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(write);
    if (watched(fd)) switch (verdict()) { case 1: return -1; case 2: return real(fd, bytes, count / 2); }
    return real(fd, bytes, count);
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    REAL(pwrite);
    if (watched(fd)) switch (verdict()) { case 1: return -1; case 2: return real(fd, bytes, count / 2, at); }
    return real(fd, bytes, count, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    REAL(pwrite64);
    if (watched(fd)) switch (verdict()) { case 1: return -1; case 2: return real(fd, bytes, count / 2, at); }
    return real(fd, bytes, count, at);
}
size_t fwrite(const void *bytes, size_t size, size_t count, FILE *file) {
    REAL(fwrite);
    if (watched(fileno(file))) switch (verdict()) { case 1: return 0; case 2: return real(bytes, size, count / 2, file); }
    return real(bytes, size, count, file);
}
int fsync(int fd) {
    REAL(fsync);
    if (watched(fd) && verdict()) { if (kind == 3) errno = ENOSPC; return -1; }
    return real(fd);
}
int fdatasync(int fd) {
    REAL(fdatasync);
    if (watched(fd) && verdict()) { if (kind == 3) errno = ENOSPC; return -1; }
    return real(fd);
}
int ftruncate(int fd, off_t length) {
    REAL(ftruncate);
    if (watched(fd) && verdict()) { if (kind == 3) errno = ENOSPC; return -1; }
    return real(fd, length);
}
int ftruncate64(int fd, off64_t length) {
    REAL(ftruncate64);
    if (watched(fd) && verdict()) { if (kind == 3) errno = ENOSPC; return -1; }
    return real(fd, length);
}
int rename(const char *from, const char *to) {
    REAL(rename);
    if (below(to) && verdict()) { if (kind == 3) errno = ENOSPC; return -1; }
    return real(from, to);
}
