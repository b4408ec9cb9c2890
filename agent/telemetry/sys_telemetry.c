/*
 * sys_telemetry - opens a slot's cgroup files and reads them: one pread each, no memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "agent/telemetry/telemetry.h"
#include "common/sys/sys_fd.h"

enum { READ_MAX = 8192 }; /* memory.stat is the largest: 1.5 to 3 KiB */

void telemetry_fds_init(struct telemetry_fds *fds)
{
    for (unsigned i = 0; i < TELEMETRY_FILE_COUNT; i++) {
        fds->fd[i] = -1;
    }
}

void telemetry_fds_close(struct telemetry_fds *fds)
{
    for (unsigned i = 0; i < TELEMETRY_FILE_COUNT; i++) {
        fds->fd[i] = fd_close(fds->fd[i]);
    }
}

static void open_one(struct telemetry_fds *fds, int dir, enum telemetry_file file)
{
    const char *name = telemetry_file_name(file);
    bool resettable = file == TELEMETRY_V2_MEMORY_PEAK || file == TELEMETRY_V1_MEMORY_MAX_USAGE;

    if (dir < 0) {
        return;
    }
    if (resettable) {
        fds->fd[file] = openat(dir, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    }
    if (fds->fd[file] < 0) {
        fds->fd[file] = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    }
}

static void open_memory(const struct telemetry_dirs *d, struct telemetry_fds *fds)
{
    if (d->memory >= 0) {
        open_one(fds, d->memory, TELEMETRY_V1_MEMORY_USAGE);
        open_one(fds, d->memory, TELEMETRY_V1_MEMORY_MAX_USAGE);
        open_one(fds, d->memory, TELEMETRY_V1_MEMORY_STAT);
        open_one(fds, d->memory, TELEMETRY_V1_MEMORY_OOM_CONTROL);
        open_one(fds, d->memory, TELEMETRY_V1_MEMORY_KMEM_USAGE);
    } else {
        open_one(fds, d->v2, TELEMETRY_V2_MEMORY_CURRENT);
        open_one(fds, d->v2, TELEMETRY_V2_MEMORY_PEAK);
        open_one(fds, d->v2, TELEMETRY_V2_MEMORY_STAT);
        open_one(fds, d->v2, TELEMETRY_V2_MEMORY_EVENTS);
    }
}

int telemetry_open(const struct telemetry_dirs *dirs, struct telemetry_fds *ret, struct err *e)
{
    struct telemetry_fds fds;
    bool any = false;

    telemetry_fds_init(&fds);
    open_memory(dirs, &fds);
    open_one(&fds, dirs->cpu, TELEMETRY_V1_CPU_STAT);
    if (dirs->cpuacct >= 0) {
        open_one(&fds, dirs->cpuacct, TELEMETRY_V1_CPUACCT_USAGE);
        open_one(&fds, dirs->cpuacct, TELEMETRY_V1_CPUACCT_STAT);
    } else {
        open_one(&fds, dirs->v2, TELEMETRY_V2_CPU_STAT);
    }
    if (dirs->blkio >= 0) {
        open_one(&fds, dirs->blkio, TELEMETRY_V1_IO_SERVICE_BYTES);
        open_one(&fds, dirs->blkio, TELEMETRY_V1_IO_SERVICED);
    } else {
        open_one(&fds, dirs->v2, TELEMETRY_V2_IO_STAT);
    }
    open_one(&fds, dirs->pids >= 0 ? dirs->pids : dirs->v2, TELEMETRY_PIDS_CURRENT);
    open_one(&fds, dirs->v2, TELEMETRY_CPU_PRESSURE);
    open_one(&fds, dirs->v2, TELEMETRY_MEMORY_PRESSURE);
    open_one(&fds, dirs->v2, TELEMETRY_IO_PRESSURE);
    for (unsigned i = 0; i < TELEMETRY_FILE_COUNT; i++) {
        any |= fds.fd[i] >= 0;
    }
    if (!any) {
        return err_say(e, -ENOENT, "no cgroup file can be opened: runs cannot be measured");
    }
    *ret = fds;
    return 0;
}

/* A sample leaves out what only the totals show. */
static bool in_sample(enum telemetry_file f)
{
    return f != TELEMETRY_V2_MEMORY_PEAK && f != TELEMETRY_V1_MEMORY_MAX_USAGE &&
           f != TELEMETRY_V2_MEMORY_EVENTS && f != TELEMETRY_V1_MEMORY_OOM_CONTROL &&
           f != TELEMETRY_CPU_PRESSURE && f != TELEMETRY_MEMORY_PRESSURE &&
           f != TELEMETRY_IO_PRESSURE && f != TELEMETRY_NET_RX_PACKETS &&
           f != TELEMETRY_NET_TX_PACKETS;
}

int telemetry_read(const struct telemetry_fds *fds, enum telemetry_depth depth,
                   struct telemetry_reading *ret)
{
    struct telemetry_reading r = { 0 };
    char text[READ_MAX];
    uint32_t cut = 0;

    for (unsigned i = 0; i < TELEMETRY_FILE_COUNT; i++) {
        enum telemetry_file file = (enum telemetry_file)i;
        ssize_t n = 0;
        if (fds->fd[i] < 0 || (depth == TELEMETRY_CHEAP && !in_sample(file))) {
            continue;
        }
        do {
            n = pread(fds->fd[i], text, sizeof(text), 0);
        } while (n < 0 && errno == EINTR);
        int rc = n < 0 ? -EIO : telemetry_parse(file, (struct str){ text, (size_t)n }, &r);
        if (rc != 0 && telemetry_file_rdt(file)) {
            cut |= file < TELEMETRY_RDT_MBM ? TELEMETRY_HAS_LLC : TELEMETRY_HAS_MBM;
        }
    }
    r.has &= ~cut; /* a sum that lacks a domain would look like a counter that went back */
    if (r.has == 0) {
        return -ENODATA;
    }
    *ret = r;
    return 0;
}

int telemetry_peak_reset(const struct telemetry_fds *fds)
{
    int v1 = fds->fd[TELEMETRY_V1_MEMORY_MAX_USAGE];
    int fd = v1 >= 0 ? v1 : fds->fd[TELEMETRY_V2_MEMORY_PEAK];

    if (fd >= 0 && pwrite(fd, "0", 1, 0) == 1) {
        return 0;
    }
    return -EOPNOTSUPP;
}
