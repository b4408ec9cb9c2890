/* What the sandbox shows: files, mounts, identities, descriptors, limits. */
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "probe.h"

static char text[1 << 20];

static const char *slurp(const char *path)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    size_t len = n > 0 ? (size_t)n : 0;
    while (n > 0 && len < sizeof(text) - 1 &&
           (n = read(fd, text + len, sizeof(text) - 1 - len)) > 0) {
        len += (size_t)n;
    }
    text[len] = '\0';
    if (fd >= 0) {
        close(fd);
    }
    return text;
}

static void mounts(void)
{
    static const char *const bad[] = { "/var/lib", "agent-sandbox", "/runs/", "layers", "shared:",
                                       "master:",  "ext4",          "/home",  "/work",  "/spool" };
    slurp("/proc/self/mountinfo");
    check(strstr(text, " / / ") != NULL, "mountinfo has a root", "%s", text);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char name[64];
        snprintf(name, sizeof(name), "mountinfo without '%s'", bad[i]);
        check(strstr(text, bad[i]) == NULL, name, "%s", text);
    }
    slurp("/proc/1/mountinfo");
    check(strstr(text, "layers") == NULL && strstr(text, "/slot") == NULL,
          "init's mountinfo shows no more", "%s", text);
}

static bool empty_dir(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *e;
    int n = 0;
    while (d != NULL && (e = readdir(d)) != NULL) {
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    }
    if (d != NULL) {
        closedir(d);
    }
    return n == 0;
}

static void masks(void)
{
    static const char *const files[] = {
        "/proc/kcore",       "/proc/keys",        "/proc/key-users",     "/proc/timer_list",
        "/proc/timer_stats", "/proc/sched_debug", "/proc/latency_stats", "/proc/interrupts",
        "/proc/kallsyms",    "/proc/kmsg",        "/proc/kpagecount",    "/proc/kpageflags",
        "/proc/kpagecgroup", "/proc/vmallocinfo", "/proc/slabinfo",      "/proc/config.gz",
    };
    static const char *const dirs[] = {
        "/proc/acpi",
        "/proc/scsi",
        "/proc/asound",
        "/sys/firmware",
        "/sys/fs/cgroup",
        "/sys/kernel/debug",
        "/sys/kernel/tracing",
        "/sys/kernel/security",
        "/sys/devices/virtual/powercap",
        "/sys/devices/system/cpu/cpu0/thermal_throttle",
        "/sys/devices/system/cpu/cpu1/thermal_throttle",
    };
    char name[128];
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        snprintf(name, sizeof(name), "masked %s", files[i]);
        check(strlen(slurp(files[i])) == 0, name, "%.60s", text);
    }
    for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
        snprintf(name, sizeof(name), "masked %s", dirs[i]);
        check(empty_dir(dirs[i]), name, "not empty");
    }
}

static void read_only(void)
{
    static const char *const files[] = {
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/user/max_user_namespaces",
    };
    static const char *const dirs[] = { "/proc/x", "/sys/x", "/dev/x", "/sys/fs/cgroup/x",
                                        "/sys/firmware/x" };
    char name[128];
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        snprintf(name, sizeof(name), "not writable %s", files[i]);
        int fd = open(files[i], O_WRONLY);
        check(fd < 0, name, "opened");
    }
    for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
        snprintf(name, sizeof(name), "no mkdir %s", dirs[i]);
        check(mkdir(dirs[i], 0755) < 0, name, "made");
    }
    check(chmod("/dev/null", 0777) < 0, "no chmod /dev/null", "done");
    check(unlink("/dev/null") < 0, "no unlink /dev/null", "done");
}

static void devices(void)
{
    static const struct {
        const char *path;
        unsigned minor_number;
    } nodes[] = { { "/dev/null", 3 },
                  { "/dev/zero", 5 },
                  { "/dev/full", 7 },
                  { "/dev/random", 8 },
                  { "/dev/urandom", 9 } };
    struct stat st;
    char name[64];
    for (size_t i = 0; i < 5; i++) {
        snprintf(name, sizeof(name), "device %s", nodes[i].path);
        int fd = open(nodes[i].path, O_RDWR);
        check(fd >= 0 && fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) &&
                  st.st_rdev == makedev(1, nodes[i].minor_number),
              name, "%s", strerror(errno));
        close(fd);
    }
    DIR *d = opendir("/dev");
    struct dirent *e;
    int odd = 0;
    while (d != NULL && (e = readdir(d)) != NULL) {
        static const char known[] = " . .. null zero full random urandom fd stdin stdout stderr "
                                    "ptmx pts shm ";
        char word[300];
        snprintf(word, sizeof(word), " %s ", e->d_name);
        odd += strstr(known, word) == NULL;
    }
    check(odd == 0, "no other device", "%d", odd);
    refused(mknod("/tmp/sda", S_IFBLK | 0600, makedev(8, 0)), EPERM, "no mknod of a disk");
    refused(mknod("/tmp/kmem", S_IFCHR | 0600, makedev(1, 2)), EPERM, "no mknod of kernel memory");
    int terminals = 0;
    while (terminals < 200 && open("/dev/ptmx", O_RDWR | O_NOCTTY) >= 0) {
        terminals++;
    }
    check(terminals > 0 && terminals <= 64, "terminals are bounded (R10)", "%d", terminals);
    closefrom(3);
}

static void rights(void)
{
    slurp("/proc/self/status");
    static const char *const zero[] = { "CapInh:\t0000000000000000",
                                        "CapPrm:\t0000000000000000",
                                        "CapEff:\t0000000000000000",
                                        "CapBnd:\t0000000000000000",
                                        "CapAmb:\t0000000000000000",
                                        "NoNewPrivs:\t1",
                                        "Seccomp:\t2" };
    for (size_t i = 0; i < sizeof(zero) / sizeof(zero[0]); i++) {
        check(strstr(text, zero[i]) != NULL, zero[i], "%s", text);
    }
    slurp("/proc/self/uid_map");
    unsigned long inside = 1, outside = 0, count = 0;
    check(sscanf(text, "%lu %lu %lu", &inside, &outside, &count) == 3 && inside == 0 &&
              outside >= 100000 && count == 65536,
          "ids are mapped away from the host's", "%s", text);
    check(atoi(slurp("/proc/sys/user/max_user_namespaces")) == 0, "no user namespaces", "%s", text);
    check(setuid(0) == 0 || getuid() != 0, "stays its user", "setuid");
    struct rlimit r;
    check(getrlimit(RLIMIT_CORE, &r) == 0 && r.rlim_max == 0, "RLIMIT_CORE 0", "%lu",
          (unsigned long)r.rlim_max);
    mode_t mask = umask(0);
    check(mask == 022, "umask 0022", "%o", mask);
    check(kill(1, SIGKILL) < 0 || getpid() != 1, "cannot signal init", "killed");
    refused(kill(1, SIGTERM), EPERM, "no right to signal init");
}

static void init_hidden(void)
{
    char link[256];
    slurp("/proc/1/cmdline");
    check(strcmp(text, "init") == 0, "init's command line is hidden", "%s", text);
    size_t odd = 0;
    int fd = open("/proc/1/cmdline", O_RDONLY);
    char raw[4096];
    ssize_t n = read(fd, raw, sizeof(raw));
    for (ssize_t i = 4; i < n; i++) {
        odd += raw[i] != '\0';
    }
    close(fd);
    check(odd == 0, "nothing behind it either", "%zu bytes", odd);
    static const char *const links[] = { "/proc/1/exe", "/proc/1/cwd", "/proc/1/root",
                                         "/proc/1/fd/1", "/proc/1/ns/mnt" };
    for (size_t i = 0; i < 5; i++) {
        char name[64];
        snprintf(name, sizeof(name), "no link %s", links[i]);
        check(readlink(links[i], link, sizeof(link)) < 0, name, "read");
    }
    static const char *const files[] = {
        "/proc/1/environ",         "/proc/1/maps", "/proc/1/mem", "/proc/1/auxv",
        "/proc/1/root/etc/passwd", "/proc/1/exe"
    };
    for (size_t i = 0; i < 6; i++) {
        char name[64];
        snprintf(name, sizeof(name), "no file %s", files[i]);
        check(strlen(slurp(files[i])) == 0, name, "%.40s", text);
    }
    DIR *d = opendir("/proc/1/fd");
    check(d == NULL, "no list of init's descriptors", "opened");
    errno = 0;
    DIR *task = opendir("/proc/1/map_files");
    check(task == NULL || empty_dir("/proc/1/map_files"), "no mapped files of init", "opened");
}

static void descriptors(void)
{
    int open_ones = 0;
    for (int fd = 3; fd < 65536; fd++) {
        open_ones += fcntl(fd, F_GETFD) >= 0;
    }
    check(open_ones == 0, "only stdin, stdout, stderr", "%d more", open_ones);
    char link[256];
    for (int fd = 0; fd < 3; fd++) {
        char path[32];
        char name[64];
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        ssize_t n = readlink(path, link, sizeof(link) - 1);
        link[n > 0 ? n : 0] = '\0';
        snprintf(name, sizeof(name), "descriptor %d is no host path", fd);
        check(strcmp(link, "/dev/null") == 0 || strncmp(link, "pipe:", 5) == 0 ||
                  strcmp(link, "/run/agent/payload") == 0,
              name, "%s", link);
    }
    int again = open("/dev/stdout", O_WRONLY);
    check(again >= 0, "/dev/stdout can be opened again", "%s", strerror(errno));
    close(again);
}

static void files(void)
{
    struct stat st;
    char link[64] = "";
    check(strstr(slurp("/etc/hosts"), "127.0.0.1\tlocalhost") != NULL, "/etc/hosts", "%s", text);
    check(strstr(slurp("/etc/hosts"), "probe-host") != NULL, "/etc/hosts has our name", "%s", text);
    check(strcmp(slurp("/etc/hostname"), "probe-host\n") == 0, "/etc/hostname", "%s", text);
    check(gethostname(link, sizeof(link)) == 0 && strcmp(link, "probe-host") == 0, "host name",
          "%s", link);
    check(stat("/etc/resolv.conf", &st) == 0 && strstr(slurp("/etc/resolv.conf"), "127.") == NULL,
          "/etc/resolv.conf", "%s", text);
    memset(link, 0, sizeof(link));
    check(readlink("/etc/mtab", link, sizeof(link) - 1) > 0 && strcmp(link, "/proc/mounts") == 0,
          "/etc/mtab", "%s", link);
    check(stat("/tmp", &st) == 0 && (st.st_mode & 07777) == 01777, "/tmp is 1777", "%o",
          st.st_mode);
    check(stat("/dev/shm", &st) == 0 && (st.st_mode & 07777) == 01777, "/dev/shm is 1777", "%o",
          st.st_mode);
    check(strcmp(getenv("HOSTNAME") ? getenv("HOSTNAME") : "", "probe-host") == 0, "HOSTNAME", "-");
    check(getenv("PATH") != NULL && getenv("HOME") != NULL, "PATH and HOME", "-");
    check(getenv("TERM") == NULL && getenv("TZ") == NULL, "no TERM, no TZ", "-");
    struct statvfs fs;
    check(statvfs("/", &fs) == 0 && (fs.f_flag & ST_NOSUID) && (fs.f_flag & ST_NODEV),
          "root is nosuid, nodev", "%lx", (unsigned long)fs.f_flag);
}

static void network(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(80) };
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int s = socket(AF_INET, SOCK_STREAM, 0);
    check(bind(s, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(s, 1) == 0,
          "port 80 needs no capability", "%s", strerror(errno));
    int c = socket(AF_INET, SOCK_STREAM, 0);
    check(connect(c, (struct sockaddr *)&a, sizeof(a)) == 0, "loopback is up", "%s",
          strerror(errno));
    a.sin_addr.s_addr = htonl(0x08080808);
    c = socket(AF_INET, SOCK_STREAM, 0);
    check(connect(c, (struct sockaddr *)&a, sizeof(a)) < 0 && errno == ENETUNREACH,
          "nothing beyond loopback", "%s", strerror(errno));
    slurp("/proc/net/dev");
    char *line = text;
    int interfaces = 0;
    while ((line = strchr(line, ':')) != NULL) {
        interfaces++;
        line++;
    }
    check(strstr(text, "eth") == NULL && strstr(text, "lo:") != NULL, "only loopback", "%s", text);
    slurp("/proc/net/unix");
    check(strstr(text, "@") == NULL && strstr(text, "/run") == NULL, "no sockets of the host (R17)",
          "%s", text);
    int ping = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
    check(ping >= 0, "ping needs no capability", "%s", strerror(errno));
    closefrom(3);
}

static void processes(void)
{
    DIR *d = opendir("/proc");
    struct dirent *e;
    int n = 0;
    while (d != NULL && (e = readdir(d)) != NULL) {
        n += e->d_name[0] >= '0' && e->d_name[0] <= '9';
    }
    if (d != NULL) {
        closedir(d);
    }
    check(n <= 3, "only our own processes (R30)", "%d", n);
    check(strcmp(slurp("/proc/self/cgroup"), "") == 0 || strstr(text, "slot") == NULL,
          "cgroup paths tell nothing", "%s", text);
    check(strstr(text, "agent-") == NULL && strstr(text, "..") == NULL, "cgroup root is ours", "%s",
          text);
    /* The sandbox's own program must be itself, not the agent. */
    char link[256] = "";
    check(readlink("/proc/self/exe", link, sizeof(link) - 1) > 0 && strstr(link, "probe") != NULL,
          "/proc/self/exe is the job's", "%s", link);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    descriptors();
    mounts();
    masks();
    read_only();
    devices();
    rights();
    init_hidden();
    files();
    network();
    processes();
    return 0;
}
