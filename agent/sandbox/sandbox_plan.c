/*
 * The plan: from a spec to the steps that build its root. Pure, so that the order (which is what
 * keeps a hostile image harmless) can be read and tested without a kernel.
 *
 * Every mount point is a directory that we made in the upper layer. An upper directory hides
 * whatever the image has in its place, so "dev", "proc", "sys" can be no links; no path of the
 * image is ever resolved while we still are root.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agent/sandbox/sandbox_internal.h"
#include "common/insist.h"

enum { SHM_INODES = 16384, TERMINALS_MAX = 64 };

const char *const sandbox_masked_proc[] = {
    "acpi",       "asound",        "bootconfig",  "config.gz",   "interrupts",  "kallsyms",
    "kcore",      "key-users",     "keys",        "kmsg",        "kpagecgroup", "kpagecount",
    "kpageflags", "latency_stats", "mtrr",        "sched_debug", "schedstat",   "scsi",
    "slabinfo",   "timer_list",    "timer_stats", "vmallocinfo", NULL,
};

const char *const sandbox_masked_sys[] = {
    "firmware",
    "fs/cgroup",
    "fs/bpf",
    "fs/fuse/connections",
    "fs/selinux",
    "hypervisor",
    "kernel/config",
    "kernel/debug",
    "kernel/security",
    "kernel/tracing",
    "devices/virtual/powercap",
    NULL,
};

const char *const sandbox_readonly_proc[] = { "bus", "fs", "irq", "sys", "sysrq-trigger", NULL };

static const char *keep(struct sandbox_plan *p, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static const char *keep(struct sandbox_plan *p, const char *fmt, ...)
{
    size_t room = PLAN_TEXT_MAX - p->text_len;
    char *at = p->text + p->text_len;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(at, room, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= room) {
        p->error = -E2BIG;
        return "";
    }
    p->text_len += (size_t)n + 1;
    return at;
}

static struct plan_step *add(struct sandbox_plan *p, enum plan_op op, const char *path,
                             const char *text)
{
    if (p->len == PLAN_STEPS_MAX) {
        p->error = -E2BIG;
        return &p->steps[PLAN_STEPS_MAX];
    }
    struct plan_step *s = &p->steps[p->len++];
    *s = (struct plan_step){ .op = op, .path = path, .text = text };
    return s;
}

static void add_dir(struct sandbox_plan *p, const char *path, uint32_t mode)
{
    add(p, PLAN_DIR, path, "")->mode = mode;
}

static void add_file(struct sandbox_plan *p, const char *path, const char *text, uint32_t mode)
{
    add(p, PLAN_FILE, path, text)->mode = mode;
}

size_t sandbox_plan_hosts(const char *hostname, char dst[SANDBOX_HOSTS_CAP])
{
    int n = snprintf(dst, SANDBOX_HOSTS_CAP,
                     "127.0.0.1\tlocalhost %.63s\n"
                     "::1\tlocalhost ip6-localhost ip6-loopback %.63s\n"
                     "fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\n"
                     "ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
                     hostname, hostname);
    INSIST(n > 0 && n < SANDBOX_HOSTS_CAP);
    return (size_t)n;
}

/* The writable layer: one tmpfs that holds the upper and the work directory, with our own files
 * already in it when the overlay is mounted. */
static void plan_upper(struct sandbox_plan *p, const struct sandbox_spec *s,
                       const struct plan_facts *f)
{
    struct plan_step *tmpfs = add(p, PLAN_TMPFS, "u", "");
    tmpfs->size = s->limits.disk_bytes;
    tmpfs->inodes = s->limits.disk_inodes;
    tmpfs->mode = 0755;
    add_dir(p, "u/w", 0755);
    add_dir(p, "u/d", 0755);
    add_dir(p, "u/d/dev", 0755);
    add_dir(p, "u/d/proc", 0555);
    add_dir(p, "u/d/sys", 0555);
    add_dir(p, "u/d/tmp", 01777);
    add_dir(p, "u/d/run", 0755);
    add_dir(p, "u/d/run/agent", 0755);
    add_dir(p, "u/d/etc", 0755);
    add_file(p, "u/d/etc/hostname", keep(p, "%s\n", s->hostname), 0644);
    char hosts[SANDBOX_HOSTS_CAP];
    (void)sandbox_plan_hosts(s->hostname, hosts);
    add_file(p, "u/d/etc/hosts", keep(p, "%s", hosts), 0644);
    add_file(p, "u/d/etc/resolv.conf", f->resolv_conf, 0644);
    add(p, PLAN_LINK, "u/d/etc/mtab", "/proc/mounts");
    add_file(p, "u/d/run/agent/retry-after", "", 0666); /* init reads it at the end */
    if (s->secrets) {
        add_dir(p, "u/d/run/agent/secrets", 0555);
    }
    if (f->payload_dir == NULL) {
        add_file(p, "u/d/run/agent/payload", "", 0444);
    }
}

/* lowerdir wants the highest layer first. */
static void plan_overlay(struct sandbox_plan *p, const struct sandbox_spec *s,
                         const struct plan_facts *f)
{
    size_t start = p->text_len;
    const char *options = keep(p, "lowerdir=");
    const char *sep = "";
    if (f->payload_dir != NULL) {
        p->text_len--;
        keep(p, "%s", f->payload_dir);
        sep = ":";
    }
    for (size_t i = s->layers_len; i > 0; i--) {
        p->text_len -= p->error == 0 ? 1 : 0;
        keep(p, "%sl/%u", sep, f->layers[i - 1]);
        sep = ":";
    }
    p->text_len -= p->error == 0 ? 1 : 0;
    keep(p, ",upperdir=u/d,workdir=u/w,volatile,index=off,xino=off,metacopy=off");
    if (p->text_len - start > PLAN_OPTIONS_MAX) {
        p->error = -E2BIG;
    }
    add(p, PLAN_OVERLAY, "r", options);
}

static void plan_kernel(struct sandbox_plan *p, const struct sandbox_spec *s)
{
    add(p, PLAN_MOVE, "r/dev", "dev");
    add(p, PLAN_DEVPTS, "r/dev/pts", "")->size = TERMINALS_MAX;
    struct plan_step *shm = add(p, PLAN_TMPFS, "r/dev/shm", "");
    shm->size = s->limits.shm_bytes;
    shm->inodes = SHM_INODES;
    shm->mode = 01777;
    if (s->secrets) { /* empty and the sandbox's root's: the launcher fills it (sys_secrets.c) */
        struct plan_step *secrets = add(p, PLAN_SECRETS, "r/run/agent/secrets", "");
        secrets->size = SANDBOX_SECRETS_BYTES + SANDBOX_SECRETS_MAX * 4096;
        secrets->inodes = SANDBOX_SECRETS_MAX + 4;
        secrets->mode = 0555;
    }
    add(p, PLAN_MOVE, "r/sys", "sys");
    add(p, PLAN_PROC, "r/proc", "");
    for (size_t i = 0; sandbox_masked_proc[i] != NULL; i++) {
        add(p, PLAN_MASK, keep(p, "r/proc/%s", sandbox_masked_proc[i]), "");
    }
    for (size_t i = 0; sandbox_readonly_proc[i] != NULL; i++) {
        add(p, PLAN_READONLY, keep(p, "r/proc/%s", sandbox_readonly_proc[i]), "");
    }
}

int sandbox_plan_make(const struct sandbox_spec *s, const struct plan_facts *f,
                      struct sandbox_plan *p, struct err *e)
{
    p->len = 0;
    p->text_len = 0;
    p->error = 0;
    plan_upper(p, s, f);
    plan_overlay(p, s, f);
    plan_kernel(p, s);
    add(p, PLAN_HOSTNAME, "", s->hostname);
    add(p, PLAN_ROOT, "r", "");
    if (p->error < 0) {
        return err_say(e, p->error, "the sandbox's plan does not fit");
    }
    return 0;
}

/* "nameserver 127.0.0.53" and the like answer on the host's loopback only. */
static bool resolver_is_local(struct str line)
{
    if (!str_starts(line, "nameserver")) {
        return false;
    }
    struct str addr = str_trim(str_slice(line, 10, line.n));
    return str_starts(addr, "127.") || str_eqs(addr, "::1") || str_eqs(addr, "0.0.0.0");
}

void sandbox_resolv_filter(struct str text, struct buf *out)
{
    struct str line;
    if (text.n > 8192) {
        text.n = 8192;
    }
    while (str_split(&text, '\n', &line)) {
        line = str_trim(line);
        if (line.n == 0 || line.p[0] == '#' || line.p[0] == ';' || resolver_is_local(line) ||
            memchr(line.p, '\0', line.n) != NULL) {
            continue;
        }
        buf_addstr(out, line);
        buf_addc(out, '\n');
    }
}

void sandbox_resolv_nat(struct str text, struct buf *out)
{
    struct str line;
    buf_adds(out, "nameserver " SANDBOX_DNS_ADDR "\n");
    while (str_split(&text, '\n', &line)) {
        if (!str_starts(line, "nameserver") && line.n != 0) {
            buf_addstr(out, line);
            buf_addc(out, '\n');
        }
    }
}
