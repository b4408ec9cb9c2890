/* Clock, disk, memory, limits, user, port and data directory, as agent serve will find them. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/timex.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "agent/cli/sys_doctor.h"
#include "common/insist.h"
#include "common/sys/sys.h"

enum {
    JUMP_US = 5000, /* the clocks may differ by that over PAUSE_MS */
    PAUSE_MS = 50,
    SYNCS = 9,
    SYNC_SLOW_US = 20 * 1000,
    NOFILE_WANTED = 65536,
    IDS_PER_SLOT = 65536,
    SLOTS_GUESS = 4096, /* most slots that there can be */
};

static const char *reason(int code)
{
    const char *text = strerrordesc_np(code < 0 ? -code : code);
    return text != NULL ? text : "unknown error";
}

static void clock_row(struct cli_doctor *d)
{
    struct timex t = { .modes = 0 };
    int state = adjtimex(&t);
    int64_t before = sys_wall_us() - (int64_t)sys_mono_us();
    sys_sleep_ms(PAUSE_MS);
    int64_t jump = sys_wall_us() - (int64_t)sys_mono_us() - before;
    jump = jump < 0 ? -jump : jump;
    if (jump > JUMP_US) {
        cli_doctor_note(d, CLI_CHECK_CLOCK, CLI_WARN, "it jumped by %lld ms just now",
                        (long long)(jump / 1000));
    } else if (state == TIME_ERROR || (t.status & STA_UNSYNC) != 0) {
        cli_doctor_note(d, CLI_CHECK_CLOCK, CLI_WARN, "the kernel does not know it synchronised");
    } else {
        cli_doctor_note(d, CLI_CHECK_CLOCK, CLI_OK, "synchronised, error at most %ld ms",
                        (long)t.maxerror / 1000);
    }
}

static int by_size(const void *a, const void *b)
{
    const uint64_t *x = a;
    const uint64_t *y = b;
    return *x < *y ? -1 : *x > *y;
}

static void sync_row(struct cli_doctor *d, const char *path)
{
    static const char block[4096];
    uint64_t took[SYNCS];
    AUTO_FD int fd = open(path, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0) {
        cli_doctor_note(d, CLI_CHECK_SYNC, geteuid() == 0 ? CLI_WARN : CLI_SKIPPED,
                        "no file could be made in %s: %s", path, reason(errno));
        return;
    }
    for (size_t i = 0; i < SYNCS; i++) {
        uint64_t start = sys_mono_us();
        if (sys_write_full(fd, block, sizeof(block)) != 0 || fdatasync(fd) != 0) {
            cli_doctor_note(d, CLI_CHECK_SYNC, CLI_BAD, "fdatasync in %s: %s", path, reason(errno));
            return;
        }
        took[i] = sys_mono_us() - start;
    }
    qsort(took, SYNCS, sizeof(took[0]), by_size);
    uint64_t median = took[SYNCS / 2];
    cli_doctor_note(d, CLI_CHECK_SYNC, median > SYNC_SLOW_US ? CLI_WARN : CLI_OK,
                    "fdatasync of 4 KiB: %.2f ms (median of %d), %.2f ms at most",
                    (double)median / 1e3, SYNCS, (double)took[SYNCS - 1] / 1e3);
}

static void disk_row(struct cli_doctor *d, const struct settings *s, const char *path)
{
    struct statfs fs;
    char free_text[32];
    char total_text[32];
    if (statfs(path, &fs) != 0) {
        cli_doctor_note(d, CLI_CHECK_DISK, CLI_BAD, "%s: %s", path, reason(errno));
        return;
    }
    uint64_t unit = (uint64_t)fs.f_bsize;
    uint64_t left = (uint64_t)fs.f_bavail * unit;
    const char *name = cli_doctor_fs_name((unsigned long)fs.f_type);
    bool few_inodes = fs.f_files > 0 && fs.f_ffree < 100000;
    bool short_of = left < s->store.min_free_bytes || few_inodes;
    cli_doctor_note(d, CLI_CHECK_DISK, short_of ? CLI_WARN : CLI_OK, "%s free of %s on %s (%s)%s",
                    str_fmt_size(free_text, sizeof(free_text), left),
                    str_fmt_size(total_text, sizeof(total_text), (uint64_t)fs.f_blocks * unit),
                    path, name != NULL ? name : "unknown file system",
                    few_inodes ? ", few inodes" : "");
}

static void memory_row(struct cli_doctor *d)
{
    struct sysinfo info;
    char total[32];
    char left[32];
    if (sysinfo(&info) != 0) {
        return;
    }
    uint64_t unit = info.mem_unit;
    uint64_t available = ((uint64_t)info.freeram + info.bufferram) * unit;
    AUTO_BUF struct buf text = BUF_INIT(16 * 1024);
    if (sys_read_file(AT_FDCWD, "/proc/meminfo", 16 * 1024, &text, NULL) == 0) {
        struct str rest = buf_str(&text);
        struct str line;
        while (str_split(&rest, '\n', &line)) {
            struct str number = str_slice(line, sizeof("MemAvailable:") - 1, line.n);
            uint64_t kib = 0;
            if (str_starts(line, "MemAvailable:") && str_ends(number, " kB") &&
                str_u64(str_trim(str_slice(number, 0, number.n - 3)), &kib) == 0) {
                available = kib * 1024;
            }
        }
    }
    cli_doctor_note(d, CLI_CHECK_MEMORY, available < (256ULL << 20) ? CLI_WARN : CLI_OK,
                    "%s available of %s", str_fmt_size(left, sizeof(left), available),
                    str_fmt_size(total, sizeof(total), (uint64_t)info.totalram * unit));
}

static void files_row(struct cli_doctor *d)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0) {
        cli_doctor_note(d, CLI_CHECK_FILES, r.rlim_max < NOFILE_WANTED ? CLI_WARN : CLI_OK,
                        "hard limit %llu", (unsigned long long)r.rlim_max);
    }
}

/* The number of a name in /etc/passwd, or -1. getpwnam() has no place in a static program. */
static int64_t uid_of(const char *name)
{
    AUTO_BUF struct buf text = BUF_INIT(4 * 1024 * 1024);
    if (sys_read_file(AT_FDCWD, "/etc/passwd", 4 * 1024 * 1024, &text, NULL) != 0) {
        return -1;
    }
    struct str rest = buf_str(&text);
    struct str line;
    while (str_split(&rest, '\n', &line)) {
        struct str field[3];
        uint64_t uid = 0;
        if (str_split(&line, ':', &field[0]) && str_split(&line, ':', &field[1]) &&
            str_split(&line, ':', &field[2]) && str_eqs(field[0], name) &&
            str_u64_in(field[2], 0, UINT32_MAX, &uid) == 0) {
            return (int64_t)uid;
        }
    }
    return -1;
}

static void user_row(struct cli_doctor *d, const struct settings *s)
{
    int64_t uid = uid_of(s->node.user);
    if (uid < 0) {
        cli_doctor_note(d, CLI_CHECK_USER, CLI_BAD, "there is no user '%s' (node.user)",
                        s->node.user);
    } else if (uid == 0) {
        cli_doctor_note(d, CLI_CHECK_USER, CLI_BAD, "'%s' (node.user) is root", s->node.user);
    } else {
        cli_doctor_note(d, CLI_CHECK_USER, CLI_OK, "%s (uid %lld)", s->node.user, (long long)uid);
    }
}

static void ids_row(struct cli_doctor *d, const struct settings *s)
{
    static const char *const files[] = { "/etc/subuid", "/etc/subgid" };
    uint64_t base = s->sandbox.uid_base;
    uint64_t slots = s->node.slots != 0 ? s->node.slots : SLOTS_GUESS;
    uint64_t len = (slots + 1) * IDS_PER_SLOT;
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        AUTO_BUF struct buf text = BUF_INIT(1024 * 1024);
        char owner[64];
        if (sys_read_file(AT_FDCWD, files[i], 1024 * 1024, &text, NULL) == 0 &&
            cli_doctor_subid_meets(buf_str(&text), base, len, owner)) {
            cli_doctor_note(d, CLI_CHECK_IDS, CLI_WARN, "%s gives '%s' ids from %llu on as well",
                            files[i], owner, (unsigned long long)base);
            return;
        }
    }
    cli_doctor_note(d, CLI_CHECK_IDS, CLI_OK, "%llu and on, up to %llu slots",
                    (unsigned long long)base, (unsigned long long)slots);
}

static void data_dir_row(struct cli_doctor *d, const struct settings *s)
{
    struct stat st;
    const char *dir = s->node.data_dir;
    if (stat(dir, &st) != 0) {
        if (errno == ENOENT) {
            cli_doctor_note(d, CLI_CHECK_DATA_DIR, CLI_OK, "%s will be made", dir);
        } else {
            cli_doctor_note(d, CLI_CHECK_DATA_DIR, CLI_BAD, "%s: %s", dir, reason(errno));
        }
    } else if (!S_ISDIR(st.st_mode)) {
        cli_doctor_note(d, CLI_CHECK_DATA_DIR, CLI_BAD, "%s is not a directory", dir);
    } else if (st.st_uid != 0 || (st.st_mode & 022) != 0) {
        cli_doctor_note(d, CLI_CHECK_DATA_DIR, CLI_BAD, "%s belongs to uid %u, mode %04o", dir,
                        (unsigned)st.st_uid, (unsigned)(st.st_mode & 07777));
    } else {
        cli_doctor_note(d, CLI_CHECK_DATA_DIR, CLI_OK, "%s, mode %04o", dir,
                        (unsigned)(st.st_mode & 07777));
    }
}

static void port_row(struct cli_doctor *d, const struct settings *s)
{
    char host[256];
    char port_text[8];
    uint16_t port = 0;
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
                                    .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
    struct addrinfo *list = NULL;
    if (settings_addr_split(s->http.listen, host, sizeof(host), &port) != 0) {
        cli_doctor_note(d, CLI_CHECK_PORT, CLI_BAD, "http.listen = %s", s->http.listen);
        return;
    }
    (void)snprintf(port_text, sizeof(port_text), "%u", (unsigned)port);
    int rc = getaddrinfo(host[0] != '\0' ? host : NULL, port_text, &hints, &list);
    if (rc != 0) {
        cli_doctor_note(d, CLI_CHECK_PORT, CLI_BAD, "%s: %s", s->http.listen, gai_strerror(rc));
        return;
    }
    int on = 1;
    AUTO_FD int fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    int code = fd >= 0 && bind(fd, list->ai_addr, list->ai_addrlen) == 0 ? 0 : errno;
    freeaddrinfo(list);
    if (code == EADDRINUSE) {
        cli_doctor_note(d, CLI_CHECK_PORT, CLI_WARN, "%s is in use (a running agent?)",
                        s->http.listen);
    } else if (code != 0) {
        cli_doctor_note(d, CLI_CHECK_PORT, CLI_BAD, "%s: %s", s->http.listen, reason(code));
    } else {
        cli_doctor_note(d, CLI_CHECK_PORT, CLI_OK, "%s is free", s->http.listen);
    }
}

void cli_doctor_machine(struct cli_doctor *d, const struct settings *s, const char *path)
{
    clock_row(d);
    disk_row(d, s, path);
    sync_row(d, path);
    memory_row(d);
    files_row(d);
    user_row(d, s);
    ids_row(d, s);
    data_dir_row(d, s);
    port_row(d, s);
    cli_doctor_tls(d, s);
}
