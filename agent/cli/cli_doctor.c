/* The rows of `agent doctor`. */
#include "agent/cli/cli_doctor.h"

#include <linux/magic.h>

#include "common/insist.h"

static const struct {
    const char *name;
    const char *lost; /* without it */
    const char *fix;
} texts[CLI_CHECKS] = {
    [CLI_CHECK_ROOT] = { "root", "mounts, namespaces and the data directory were not tried",
                         "sudo agent doctor" },
    [CLI_CHECK_SETTINGS] = { "settings", "agent serve will not start",
                             "correct the line; agent config example shows every key" },
    [CLI_CHECK_KERNEL] = { "kernel", "the sandbox is neither built nor tested for older kernels",
                           "a kernel of 6.1 or newer (Debian 12 has one)" },
    [CLI_CHECK_USERNS] = { "user namespaces", "no run can start",
                           "sysctl user.max_user_namespaces=15000; a kernel with CONFIG_USER_NS" },
    [CLI_CHECK_NAMESPACES] = { "other namespaces", "no run can start",
                               "sysctl user.max_{mnt,pid,net,ipc,uts,cgroup}_namespaces; a kernel "
                               "with all of them" },
    [CLI_CHECK_IDMAP] = { "id-mapped mounts", "no run can start: layers could not be shared",
                          "a data directory on ext4, xfs, btrfs or tmpfs" },
    [CLI_CHECK_OVERLAY] = { "overlay", "no run can start", "modprobe overlay" },
    [CLI_CHECK_TMPFS] = { "tmpfs", "no run can start", "a kernel with CONFIG_TMPFS" },
    [CLI_CHECK_SECCOMP] = { "seccomp", "no run can start", "a kernel with CONFIG_SECCOMP_FILTER" },
    [CLI_CHECK_PIDFD] = { "pidfd", "runs could not be watched safely", "a newer kernel" },
    [CLI_CHECK_OPENAT2] = { "openat2", "paths of images could not be opened safely",
                            "a newer kernel, or a container runtime that allows it" },
    [CLI_CHECK_VETH] = { "network (veth)", "jobs with network nat fail", "modprobe veth" },
    [CLI_CHECK_NFT] = { "network (nf_tables)", "jobs with network nat fail",
                        "modprobe nf_tables nft_nat nft_masq" },
    [CLI_CHECK_FORWARD] = { "network (forwarding)", "jobs with network nat fail",
                            "sysctl net.ipv4.ip_forward=1, or sandbox.nat_forwarding = yes" },
    [CLI_CHECK_CGROUP] = { "cgroups", "no limits and no exact totals for runs",
                           "mount cgroup2 on /sys/fs/cgroup, as systemd does" },
    [CLI_CHECK_CGROUP_MEMORY] = { "  memory", "no memory limit, no peak memory",
                                  "boot with cgroup_enable=memory, or delegate the controller" },
    [CLI_CHECK_CGROUP_CPU] = { "  cpu", "no CPU limit, CPU time only from waited-for processes",
                               "delegate the controller (Delegate=yes)" },
    [CLI_CHECK_CGROUP_PIDS] = { "  pids", "processes of a run are bounded by RLIMIT_NPROC only",
                                "delegate the controller (Delegate=yes)" },
    [CLI_CHECK_CGROUP_IO] = { "  io", "no block I/O totals", "delegate the controller" },
    [CLI_CHECK_CPU] = { "processor", "jobs that require a capability may not be placed here",
                        "firmware settings, or another machine type" },
    [CLI_CHECK_RESCTRL] = { "resctrl (RDT)", "cache use and memory bandwidth are not measured",
                            "a processor with RDT, and: mount -t resctrl resctrl /sys/fs/resctrl" },
    [CLI_CHECK_CLOCK] = { "clock", "times in records and between nodes are off",
                          "apt install chrony (or systemd-timesyncd)" },
    [CLI_CHECK_DISK] = { "disk space", "work is refused with 507 when it is used up",
                         "free some, or another node.data_dir" },
    [CLI_CHECK_SYNC] = { "disk sync", "every accepted run waits that long to be durable",
                         "a faster disk for node.data_dir" },
    [CLI_CHECK_MEMORY] = { "memory", "few or no runs fit beside what is running",
                           "more memory, or less beside the agent" },
    [CLI_CHECK_FILES] = { "open files", "fewer connections at a time",
                          "LimitNOFILE=65536 in the unit, or ulimit -n 65536" },
    [CLI_CHECK_USER] = { "user", "agent serve will not start",
                         "adduser --system --group --no-create-home --home /nonexistent USER, or "
                         "another node.user" },
    [CLI_CHECK_IDS] = { "id range", "a user of this machine and a run could have the same ids",
                        "another sandbox.uid_base" },
    [CLI_CHECK_DATA_DIR] = { "data directory", "agent serve will not start, or is not safe",
                             "chown root:root and chmod 0711, or another node.data_dir" },
    [CLI_CHECK_PORT] = { "port", "agent serve will not start while it is taken",
                         "stop the other program, or another http.listen" },
    [CLI_CHECK_TLS] = { "certificate",
                        "clients and other nodes cannot, or soon cannot, talk to this one",
                        "agent ca issue NAME, and put the files in place: no restart is needed" },
};

static const char *const verdicts[] = { "-", "ok", "warn", "FAIL" };

void cli_doctor_note(struct cli_doctor *d, enum cli_check check, enum cli_verdict verdict,
                     const char *fmt, ...)
{
    struct cli_finding *row = &d->rows[check];
    AUTO_BUF struct buf b = BUF_INIT(4096);
    va_list ap;
    va_start(ap, fmt);
    (void)buf_vaddf(&b, fmt, ap);
    va_end(ap);
    row->verdict = verdict;
    struct str text = str_slice(buf_str(&b), 0, sizeof(row->found) - 1);
    if (str_copy(row->found, sizeof(row->found), text) != 0) {
        row->found[0] = '\0';
    }
}

static void as_json(const struct cli_doctor *d, struct cli_view *v)
{
    struct json_w w;
    json_w_init(&w, v->out, true);
    json_w_obj(&w);
    json_kv_bool(&w, "ok", cli_doctor_exit(d) == CLI_EXIT_OK);
    json_w_key(&w, "checks");
    json_w_arr(&w);
    for (size_t i = 0; i < CLI_CHECKS; i++) {
        const struct cli_finding *row = &d->rows[i];
        static const char *const names[] = { "skipped", "ok", "warn", "fail" };
        json_w_obj(&w);
        json_kv_str(&w, "name", str_trim(str_of(texts[i].name)));
        json_kv_cstr(&w, "verdict", names[row->verdict]);
        json_kv_cstr(&w, "found", row->found);
        json_kv_cstr(&w, "lost_without", texts[i].lost);
        json_kv_cstr(&w, "fix", texts[i].fix);
        json_w_end(&w);
    }
    json_w_end(&w);
    json_w_end(&w);
    (void)buf_addc(v->out, '\n');
}

void cli_doctor_view(const struct cli_doctor *d, struct cli_view *v)
{
    static const char *const heads[] = { "CHECK", "", "FOUND", NULL };
    static const enum cli_colour colours[] = { CLI_DIM, CLI_GREEN, CLI_YELLOW, CLI_RED };
    struct cli_table t;
    if (v->format == CLI_FORMAT_JSON) {
        as_json(d, v);
        return;
    }
    cli_table_init(&t, heads);
    for (size_t i = 0; i < CLI_CHECKS; i++) {
        const struct cli_finding *row = &d->rows[i];
        cli_table_cell(&t, CLI_PLAIN, str_of(texts[i].name));
        cli_table_cell(&t, colours[row->verdict], str_of(verdicts[row->verdict]));
        cli_table_cell(&t, CLI_PLAIN, str_of(row->found));
        if (row->verdict == CLI_WARN || row->verdict == CLI_BAD) {
            cli_table_cell(&t, CLI_PLAIN, STR(""));
            cli_table_cell(&t, CLI_PLAIN, STR(""));
            cli_table_cellf(&t, CLI_DIM, "lost: %s", texts[i].lost);
            cli_table_cell(&t, CLI_PLAIN, STR(""));
            cli_table_cell(&t, CLI_PLAIN, STR(""));
            cli_table_cellf(&t, CLI_DIM, "to get it: %s", texts[i].fix);
        }
    }
    (void)cli_table_render(&t, v->heads, v->colour, v->out);
    cli_table_release(&t);
}

int cli_doctor_exit(const struct cli_doctor *d)
{
    for (size_t i = 0; i < CLI_CHECKS; i++) {
        if (d->rows[i].verdict == CLI_BAD) {
            return CLI_EXIT_FAILED;
        }
    }
    return CLI_EXIT_OK;
}

bool cli_doctor_kernel_ok(struct str release)
{
    struct str piece;
    uint64_t version[2] = { 0, 0 };
    for (size_t i = 0; i < 2; i++) {
        if (!str_split(&release, '.', &piece)) {
            return false;
        }
        size_t digits = 0;
        while (digits < piece.n && piece.p[digits] >= '0' && piece.p[digits] <= '9') {
            digits++;
        }
        if (str_u64(str_slice(piece, 0, digits), &version[i]) != 0) {
            return false;
        }
    }
    return version[0] > 6 || (version[0] == 6 && version[1] >= 1);
}

const char *cli_doctor_fs_name(unsigned long magic)
{
    static const struct {
        unsigned long magic;
        const char *name;
    } names[] = {
        { EXT4_SUPER_MAGIC, "ext4" },         { XFS_SUPER_MAGIC, "xfs" },
        { BTRFS_SUPER_MAGIC, "btrfs" },       { TMPFS_MAGIC, "tmpfs" },
        { OVERLAYFS_SUPER_MAGIC, "overlay" }, { NFS_SUPER_MAGIC, "nfs" },
        { F2FS_SUPER_MAGIC, "f2fs" },         { 0x2fc12fc1, "zfs" },
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (names[i].magic == magic) {
            return names[i].name;
        }
    }
    return NULL;
}

bool cli_doctor_subid_meets(struct str text, uint64_t base, uint64_t len, char *ret_owner)
{
    struct str line;
    while (str_split(&text, '\n', &line)) {
        struct str owner;
        struct str from_text;
        struct str count_text;
        uint64_t from = 0;
        uint64_t count = 0;
        if (!str_split(&line, ':', &owner) || !str_split(&line, ':', &from_text) ||
            !str_split(&line, ':', &count_text) || str_u64(from_text, &from) != 0 ||
            str_u64(count_text, &count) != 0 || count == 0) {
            continue;
        }
        if (from < base + len && base < from + count) {
            if (str_copy(ret_owner, 64, str_slice(owner, 0, 63)) != 0) {
                ret_owner[0] = '\0';
            }
            return true;
        }
    }
    return false;
}
