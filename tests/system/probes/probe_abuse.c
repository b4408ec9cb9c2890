/* probe_abuse WHAT: takes more than it may have. Prints what it got. */
#include <dirent.h>
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "probe.h"

static int forks(long n)
{
    long made = 0;
    for (; made < n; made++) {
        pid_t pid = fork();
        if (pid == 0) {
            pause();
            _exit(0);
        }
        if (pid < 0) {
            break;
        }
    }
    printf("forks %ld %s\n", made, made < n ? strerror(errno) : "all");
    return 0;
}

static int memory(long mib)
{
    for (long i = 0; i < mib; i++) {
        char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) {
            printf("mmap %ld %s\n", i, strerror(errno));
            return 1;
        }
        memset(p, 1, 1 << 20);
    }
    printf("memory all\n");
    return 0;
}

/* The limit is hit by a child: the job itself is small and would go on. */
static int child_memory(long mib)
{
    pid_t pid = fork();
    if (pid == 0) {
        _exit(memory(mib));
    }
    waitpid(pid, NULL, 0);
    sleep(20);
    printf("the parent went on\n");
    return 0;
}

static int fill(const char *dir, long mib)
{
    static char mb[1 << 20];
    char path[256];
    snprintf(path, sizeof(path), "%s/filled", dir);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    long i = 0;
    memset(mb, 1, sizeof(mb));
    ssize_t n = 0;
    while (i < mib && (n = write(fd, mb, sizeof(mb))) == (ssize_t)sizeof(mb)) {
        i++;
    }
    if (n >= 0 && i < mib) {
        (void)!write(fd, mb, sizeof(mb)); /* a short write: the next one says why */
    }
    printf("fill %ld %s\n", i, i < mib ? strerror(errno) : "all");
    return 0;
}

static int inodes(const char *dir, long n)
{
    long i = 0;
    for (; i < n; i++) {
        char path[256];
        snprintf(path, sizeof(path), "%s/i%ld", dir, i);
        int fd = open(path, O_WRONLY | O_CREAT, 0600);
        if (fd < 0) {
            break;
        }
        close(fd);
    }
    printf("inodes %ld %s\n", i, i < n ? strerror(errno) : "all");
    return 0;
}

static int descriptors(long n)
{
    long i = 0;
    while (i < n && open("/dev/null", O_RDONLY) >= 0) {
        i++;
    }
    printf("descriptors %ld %s\n", i, i < n ? strerror(errno) : "all");
    return 0;
}

static int flood(int fd, long mib)
{
    static char mb[1 << 20];
    for (size_t i = 0; i < sizeof(mb); i++) {
        mb[i] = (char)('a' + i % 26);
    }
    for (long i = 0; i < mib; i++) {
        size_t at = 0;
        while (at < sizeof(mb)) {
            ssize_t n = write(fd, mb + at, sizeof(mb) - at);
            if (n < 0) {
                return 1;
            }
            at += (size_t)n;
        }
    }
    return 0;
}

/* Three grandchildren that ignore SIGTERM, in sessions of their own, holding our stdout. */
static int orphans(void)
{
    for (int i = 0; i < 3; i++) {
        if (fork() == 0) {
            setsid();
            if (fork() == 0) {
                signal(SIGTERM, SIG_IGN);
                signal(SIGHUP, SIG_IGN);
                for (;;) {
                    pause();
                }
            }
            _exit(0);
        }
    }
    while (wait(NULL) > 0) {
    }
    printf("orphans\n");
    return 0;
}

/* Ignores everything that can be ignored. */
static int stubborn(void) __attribute__((noreturn));
static int stubborn(void)
{
    for (int sig = 1; sig < 32; sig++) {
        signal(sig, SIG_IGN);
    }
    printf("stubborn\n");
    fflush(stdout);
    for (;;) {
        pause();
    }
}

static int suspends(void) __attribute__((noreturn));
static int suspends(void)
{
    printf("suspends\n");
    fflush(stdout);
    kill(0, SIGSTOP);
    raise(SIGSTOP);
    for (;;) {
        pause();
    }
}

/* Leaves System V and POSIX objects; says how many it found. */
static int ipc(void)
{
    int found = 0;
    for (int id = 0; id < 64; id++) {
        struct shmid_ds ds;
        struct shm_info info;
        (void)info;
        found += shmctl(id, SHM_STAT, &ds) >= 0;
    }
    int q = mq_open("/left", O_RDWR, 0600, NULL) >= 0;
    int seg = shmget(0x1234, 4096, 0);
    printf("found %d %d %d\n", found, q, seg >= 0);
    if (shmget(0x1234, 4096, IPC_CREAT | 0666) < 0 || semget(0x1234, 1, IPC_CREAT | 0666) < 0) {
        printf("no System V: %s\n", strerror(errno));
    }
    (void)mq_open("/left", O_RDWR | O_CREAT, 0600, NULL);
    struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "\0left" };
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    printf("abstract %d\n", bind(s, (struct sockaddr *)&a, sizeof(a)));
    return 0;
}

static int odd_names(void)
{
    static const char *const names[] = { "a\nb", "\033[31mred", "\xff\xfe", "-rf", " ", "..." };
    int made = 0;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char path[64];
        snprintf(path, sizeof(path), "/tmp/%s", names[i]);
        made += open(path, O_WRONLY | O_CREAT, 0600) >= 0;
    }
    printf("names %d\n", made);
    return 0;
}

/* Spins on every CPU for some seconds, niced up as far as it may. */
static int spin(long seconds)
{
    for (int i = 0; i < 4; i++) {
        if (fork() == 0) {
            (void)!nice(-20);
            time_t end = time(NULL) + seconds;
            while (time(NULL) < end) {
            }
            _exit(0);
        }
    }
    while (wait(NULL) > 0) {
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    const char *a = argc > 2 ? argv[2] : "";
    long n = argc > 2 ? atol(argv[argc - 1]) : 0;
    if (strcmp(what, "fork") == 0) {
        return forks(n);
    } else if (strcmp(what, "mem") == 0) {
        return memory(n);
    } else if (strcmp(what, "child-mem") == 0) {
        return child_memory(n);
    } else if (strcmp(what, "fill") == 0) {
        return fill(a, n);
    } else if (strcmp(what, "inode") == 0) {
        return inodes(a, n);
    } else if (strcmp(what, "fd") == 0) {
        return descriptors(n);
    } else if (strcmp(what, "flood") == 0) {
        return flood(1, n);
    } else if (strcmp(what, "flood-log") == 0) {
        return flood(2, n);
    } else if (strcmp(what, "orphan") == 0) {
        return orphans();
    } else if (strcmp(what, "stubborn") == 0) {
        return stubborn();
    } else if (strcmp(what, "suspend") == 0) {
        return suspends();
    } else if (strcmp(what, "ipc") == 0) {
        return ipc();
    } else if (strcmp(what, "names") == 0) {
        return odd_names();
    } else if (strcmp(what, "spin") == 0) {
        return spin(n);
    }
    printf("probe_abuse: what?\n");
    return 2;
}
