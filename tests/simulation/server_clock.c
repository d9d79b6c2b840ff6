/* Clock of a simulated Redis server.
 *
 * Preloaded into a real server, this library answers each query of the time from a counter in a mapped file, so that a
 * simulation decides how time passes. It also replaces the source of random numbers by zeros, because Redis orders the
 * fields of large hashes by a random seed. Valkey finds no clock rate in /proc/cpuinfo, and therefore does not read the
 * time from the processor.
 *
 * The environment variable SIMULATED_CLOCK contains the path of the file. The file contains the microseconds since 1970
 * as a 64-bit integer in the byte order of the machine.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *counter;

static int64_t now(void) {
    if (counter == NULL) {
        const char *path = getenv("SIMULATED_CLOCK");
        int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
        void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *counter, PROT_READ, MAP_SHARED, file, 0);
        if (page == MAP_FAILED) {
            static const char text[] = "server_clock: found no file in SIMULATED_CLOCK\n";
            if (write(2, text, sizeof text - 1) < 0) _exit(71);
            _exit(70);
        }
        close(file);
        counter = page;
    }
    return *counter;
}

int clock_gettime(clockid_t clock, struct timespec *result) {
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_BOOTTIME: {
        int64_t microseconds = now();
        result->tv_sec = microseconds / 1000000;
        result->tv_nsec = microseconds % 1000000 * 1000;
        return 0;
    }
    default:
        return (int)syscall(SYS_clock_gettime, clock, result);
    }
}

int gettimeofday(struct timeval *restrict result, void *restrict zone) {
    (void)zone;
    int64_t microseconds = now();
    result->tv_sec = microseconds / 1000000;
    result->tv_usec = microseconds % 1000000;
    return 0;
}

time_t time(time_t *result) {
    time_t seconds = now() / 1000000;
    if (result != NULL) *result = seconds;
    return seconds;
}

FILE *fopen(const char *restrict path, const char *restrict mode) {
    static FILE *(*real_fopen)(const char *, const char *);
    if (real_fopen == NULL) real_fopen = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, "fopen");
    if (strcmp(path, "/dev/urandom") == 0) path = "/dev/zero";
    if (strcmp(path, "/proc/cpuinfo") == 0) path = "/dev/null";
    return real_fopen(path, mode);
}

/* End the server together with the thread that started it, even if that thread is killed. */
__attribute__((constructor)) static void end_with_parent(void) { prctl(PR_SET_PDEATHSIG, SIGKILL); }
