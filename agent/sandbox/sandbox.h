/*
 * sandbox - runs a job's processes in a sandbox of their own, and says how they ended.
 *
 * Three parties (README.md draws them): the launcher (root, one thread, sandbox_launcher_main), one
 * init per sandbox (pid 1 inside), and the agent, which asks the launcher over a socket
 * (uv_sandbox.h) and reads outputs from the run's directory (sandbox_output_…).
 *
 * What is asked for is a spec: plain values that are encoded into one bounded blob, checked again
 * by the launcher. What came of it is a result: init's exit record.
 *
 * Sizes are bytes, times microseconds (_us) or milliseconds (_ms), CPUs thousandths (_milli).
 */
#ifndef AGENT_SANDBOX_SANDBOX_H
#define AGENT_SANDBOX_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/telemetry/telemetry.h"
#include "common/buf.h"
#include "common/digest.h"
#include "common/egress.h"
#include "common/err.h"
#include "common/ids.h"
#include "common/settings.h"

enum {
    SANDBOX_SPEC_MAX = 256 * 1024, /* bytes of an encoded spec */
    SANDBOX_ARGS_MAX = 4096,
    SANDBOX_ENV_MAX = 4096,
    SANDBOX_LAYERS_MAX = 127,
    SANDBOX_ATTEMPT_MAX = 9999,
    SANDBOX_RETRY_MAX = 32, /* of a retry-after file, with a NUL */
    SANDBOX_TEXT_MAX = 256, /* an error sentence in a record or message, with its NUL */
    SANDBOX_SLOTS_MAX = 4096,
    SANDBOX_ENV_NAME_MAX = 256,
    SANDBOX_KEEP_MAX = 8 * 1024 * 1024,  /* bytes of a list of layers to keep */
    SANDBOX_EGRESS_MAX = 512,            /* destinations of a run, names resolved */
    SANDBOX_SECRETS_MAX = 16,            /* files in /run/agent/secrets */
    SANDBOX_SECRET_NAME_MAX = 128,       /* bytes of such a file's name */
    SANDBOX_SECRETS_BYTES = 1 << 20,     /* of all of a run's secrets */
    SANDBOX_INDEX_MAX = 4 * 1024 * 1024, /* bytes that are kept of a layer's content */
};

/* ---- what to run ------------------------------------------------------------------------------
 */

/* Pinned: in specs and in the launcher's files. */
enum sandbox_network { SANDBOX_NETWORK_NONE, SANDBOX_NETWORK_HOST, SANDBOX_NETWORK_NAT };

/* What a sandbox on SANDBOX_NETWORK_NAT may reach, names already resolved. Closed to every sandbox
 * whatever it says: README.md, "Network". */
struct sandbox_egress {
    bool limited; /* false: everything that is not closed; then no nets */
    const struct egress_net *nets;
    size_t nets_len; /* at most SANDBOX_EGRESS_MAX */
};

/* Which share of the last level cache a run gets, where the processor can part it (sandbox_rdt.h).
 * Pinned: in specs and in the launcher's files. */
enum sandbox_cache_class {
    SANDBOX_CACHE_DEFAULT,
    SANDBOX_CACHE_SENSITIVE,
    SANDBOX_CACHE_POLLUTER,
    SANDBOX_CACHE_CLASSES
};
const char *sandbox_cache_class_name(enum sandbox_cache_class c); /* "default", … */

struct sandbox_limits {
    uint64_t memory_bytes; /* 1 MiB or more */
    uint64_t cpus_milli;   /* 0: none */
    uint64_t cpu_weight;   /* share of the processors when they are short: 1 to 10000; 0: 100 */
    uint64_t pids;         /* 2 or more; threads count */
    uint64_t disk_bytes;   /* writable layer; its pages count against memory_bytes as well */
    uint64_t disk_inodes;
    uint64_t shm_bytes;  /* /dev/shm */
    uint64_t nofile;     /* RLIMIT_NOFILE */
    uint64_t core_bytes; /* RLIMIT_CORE */
    uint64_t timeout_ms; /* 0: none. Then stop signal, grace, SIGKILL */
    uint64_t grace_ms;
    uint64_t output_bytes; /* stdout kept */
    uint64_t log_bytes;    /* stderr kept: the first and the last half. 1 KiB or more */
    bool output_truncate;  /* past output_bytes: drop the rest instead of ending the run */
    enum sandbox_network network;
    enum sandbox_cache_class cache;
};

/* The image's and the job's wishes, already joined (image config, then job document). Strings are
 * NUL-terminated; NULL stands for "". */
struct sandbox_spec {
    struct ulid run;
    uint32_t attempt;        /* 1 to SANDBOX_ATTEMPT_MAX */
    const char *const *argv; /* argv_len of them, at least one; argv[0] is looked up in PATH */
    size_t argv_len;
    const char *const *env; /* "NAME=value"; PATH, HOME and HOSTNAME are added where missing */
    size_t env_len;
    const char *workdir;  /* absolute; "": "/" */
    const char *user;     /* as an image's config says it: "", "name", "uid", "user:group", … */
    const char *hostname; /* 1 to 63 letters, digits, '-', '.' */
    int stop_signal;      /* 1 to 64 */
    const struct digest *layers; /* DiffIDs, the lowest first; at least one */
    size_t layers_len;
    bool payload; /* spool/<run> is the payload: stdin and /run/agent/payload */
    /* Files come along (sandbox_client_run) for /run/agent/secrets: a tmpfs, read-only before the
     * job starts, the files its user's own, mode 0400. Such a run leaves no core dump, neither in a
     * file nor to a program of the host's: RLIMIT_CORE is 1, which the kernel takes as neither. */
    bool secrets;
    struct sandbox_limits limits;
    struct sandbox_egress egress; /* all zero unless limits.network is NAT */
};

/* One file of /run/agent/secrets; letters, digits, '.', '_', '-'. */
struct sandbox_secret {
    struct str file;
    struct str bytes;
};
bool sandbox_secret_name_ok(struct str name);
/* Appends n of them, file names all different, as sandbox_client_run() takes them; the caller wipes
 * out. -EINVAL (none, too many, a bad name), -E2BIG (over SANDBOX_SECRETS_BYTES), -ENOMEM. */
enum { SANDBOX_SECRETS_HEAD = 4096, SANDBOX_SECRETS_FILE_MAX = 4096 + SANDBOX_SECRETS_BYTES };
int sandbox_secrets_encode(const struct sandbox_secret *v, size_t n, struct buf *out,
                           struct err *e);

/* Ranges and lengths as above. -EINVAL with the sentence. */
int sandbox_spec_check(const struct sandbox_spec *s, struct err *e);
/* Appends the blob. -EINVAL (does not pass the check), -E2BIG (over SANDBOX_SPEC_MAX), -ENOMEM. */
int sandbox_spec_encode(const struct sandbox_spec *s, struct buf *out, struct err *e);
/* Decodes and checks bytes from outside. The spec points into p, which must outlive it; its arrays
 * are released with sandbox_spec_release(). -EINVAL, -ENOMEM; *ret is untouched then. */
int sandbox_spec_decode(const void *p, size_t n, struct sandbox_spec *ret, struct err *e);
/* Only for specs that sandbox_spec_decode() made. */
void sandbox_spec_release(struct sandbox_spec *s);
/* The limits that agent.conf gives to a job that asks for nothing. */
void sandbox_limits_default(const struct settings_sandbox *s, struct sandbox_limits *ret);

/* ---- how it ended -----------------------------------------------------------------------------
 */

/* Pinned: on disk. Append only. */
enum sandbox_reason {
    SANDBOX_EXIT = 1,    /* by itself: exit_code counts */
    SANDBOX_SIGNAL = 2,  /* by a signal that we did not send: signal counts */
    SANDBOX_OOM = 3,     /* over its memory limit */
    SANDBOX_TIMEOUT = 4, /* over timeout_ms */
    SANDBOX_STOPPED = 5, /* asked to (STOP) */
    SANDBOX_OUTPUT = 6,  /* over output_bytes */
    SANDBOX_SETUP = 7,   /* never started: exit_code 125 (set-up), 126 (not executable), 127 (not
                            found); text says why */
    SANDBOX_LOST = 8,    /* no record: init was killed, or the machine went down */
};
const char *sandbox_reason_name(enum sandbox_reason r); /* "exit"; "unknown" */

struct sandbox_result {
    enum sandbox_reason reason;
    int exit_code;           /* 0 to 255; 128 + signal when killed by one; 124 on TIMEOUT */
    int signal;              /* 0: none */
    int64_t started_wall_us; /* just before exec; 0: never */
    int64_t ended_wall_us;
    uint64_t started_mono_us; /* the kernel's monotonic clock */
    uint64_t ended_mono_us;
    uint64_t setup_us;     /* from the request's arrival at the launcher to exec */
    uint64_t stdout_bytes; /* written by the job */
    uint64_t stdout_kept;  /* in the file */
    uint64_t stderr_bytes;
    uint64_t stderr_kept;
    bool stdout_truncated;
    bool stderr_truncated;
    uint64_t cpu_user_us; /* rusage of all waited-for processes: the fallback without cgroups */
    uint64_t cpu_system_us;
    uint64_t maxrss_bytes; /* largest single process */
    uint64_t switches_voluntary;
    uint64_t switches_involuntary;
    char text[SANDBOX_TEXT_MAX]; /* "" or a sentence */
    char
        retry_after[SANDBOX_RETRY_MAX]; /* what the job wrote to /run/agent/retry-after, as it is */
};

enum { SANDBOX_RECORD_SIZE = 512 };
/* The exit record as it stands in the file `exit`: fixed size, with a checksum. */
void sandbox_record_encode(const struct sandbox_result *r, uint8_t dst[SANDBOX_RECORD_SIZE]);
/* -EBADMSG: torn, of another version, or not a record. */
int sandbox_record_decode(const void *p, size_t n, struct sandbox_result *ret);

/* What the kernel counted, as the launcher read it before the slot was used again. Give base and
 * end to telemetry_meter_init() and telemetry_meter_end(). has == 0: nothing was read. */
struct sandbox_usage {
    struct telemetry_reading base;
    struct telemetry_reading end;
    bool peak_was_reset;
};

/* ---- outputs, as the agent reads them -----------------------------------------------------------
 */

enum sandbox_stream { SANDBOX_STDOUT = 1, SANDBOX_STDERR = 2 };

/* The name of a run's directory: "<RUNID>.<attempt>". */
enum { SANDBOX_DIR_CAP = 40 };
void sandbox_dir_name(struct ulid run, uint32_t attempt, char dst[SANDBOX_DIR_CAP]);
/* The inverse; -EINVAL. */
int sandbox_dir_parse(struct str name, struct ulid *ret_run, uint32_t *ret_attempt);

/* One attempt's open files. Works while the run writes (for following) and after. Blocking file
 * reads: call it on a pool thread or for small pieces. */
struct sandbox_output;
/* runs_dirfd: data_dir/runs. -ENOENT: there is no such attempt here. */
int sandbox_output_open(int runs_dirfd, struct ulid run, uint32_t attempt,
                        struct sandbox_output **ret, struct err *e);
struct sandbox_output *sandbox_output_free(struct sandbox_output *o); /* NULL is fine */

struct sandbox_output_stat {
    bool ended;        /* the exit record is there: nothing more will come */
    uint64_t total;    /* bytes that the job wrote (so far) to the stream */
    uint64_t readable; /* bytes that reading from 0 to the end gives now, marks included */
};
int sandbox_output_stat(struct sandbox_output *o, enum sandbox_stream s,
                        struct sandbox_output_stat *ret, struct err *e);

enum { SANDBOX_READ_MIN = 128 };
/* Reads up to n (SANDBOX_READ_MIN or more) bytes of a stream from *pos on, and moves *pos. *pos
 * counts what the job wrote, beginning with 0: where bytes of the log were left out, one visible
 * mark ("\n[... 123 bytes left out ...]\n", with a real ellipsis) comes instead and *pos jumps past
 * the gap. *ret_n == 0: nothing more for now (or for ever, when ended). */
int sandbox_output_read(struct sandbox_output *o, enum sandbox_stream s, uint64_t *pos, void *dst,
                        size_t n, size_t *ret_n, struct err *e);
/* The stdout file's descriptor, for sendfile and ranges; stays the owner's. -1: no file. */
int sandbox_output_fd(const struct sandbox_output *o);

/* Both streams by time. Zero it to begin. */
struct sandbox_merge {
    uint64_t pos[3]; /* by enum sandbox_stream */
    uint64_t entry;  /* of the index */
};
/* One piece of one stream (never more than n bytes): *ret_stream and *ret_wall_us (when it was
 * written, to about 10 ms) say of what. *ret_n == 0 as above. */
int sandbox_output_merge(struct sandbox_output *o, struct sandbox_merge *m, void *dst, size_t n,
                         size_t *ret_n, enum sandbox_stream *ret_stream, int64_t *ret_wall_us,
                         struct err *e);
/* The position in a stream of the first byte written at or after wall_us (or its end). */
int sandbox_output_seek(struct sandbox_output *o, enum sandbox_stream s, int64_t wall_us,
                        uint64_t *ret_pos, struct err *e);

/* The run's exit record. -ENOENT: it has not ended (or left none). -EBADMSG. */
int sandbox_output_result(struct sandbox_output *o, struct sandbox_result *ret, struct err *e);
/* The kernel's totals. -ENOENT: none were written. -EBADMSG. */
int sandbox_output_usage(struct sandbox_output *o, struct sandbox_usage *ret, struct err *e);

/* ---- the launcher ------------------------------------------------------------------------------
 */

struct sandbox_unpack_limits {
    uint64_t bytes; /* of the unpacked layer */
    uint64_t entries;
};

/* What the confined children of an UNPACK run, injected by main.c (the code is image's). Both work
 * in a process of their own: they may allocate, and are killed by the launcher when they take too
 * long. 0 or -Exxx with the sentence. */
struct sandbox_unpack_ops {
    /* Decompresses in_fd (a blob, as stored) to out_fd, and gives the digest of what it wrote. Of
     * both children only this one sees compressed bytes. */
    int (*decompress)(int in_fd, int out_fd, enum digest_algo algo,
                      const struct sandbox_unpack_limits *limits, struct digest *ret_diff_id,
                      struct err *e);
    /* Unpacks the tar stream in_fd into the directory root_fd, of which it is root. Appends to
     * opaque the paths of opaque directories, relative to root_fd, each with its NUL (the launcher
     * marks them), and to index (at most SANDBOX_INDEX_MAX bytes) what the agent wants to know of
     * the layer: it is kept beside it and comes with each UNPACKED. The caller drains in_fd. */
    int (*unpack)(int in_fd, int root_fd, const struct sandbox_unpack_limits *limits,
                  struct buf *opaque, struct buf *index, uint64_t *ret_bytes, uint64_t *ret_entries,
                  struct err *e);
};

/* The agent process's exit status that says: it is done for good, the launcher ends, too. */
enum { SANDBOX_AGENT_DONE = 3 };

enum { SANDBOX_LISTEN_MAX = 8, SANDBOX_AGENT_FD = 3, SANDBOX_LISTEN_FD = 4 };

struct sandbox_launcher_config {
    const struct settings *settings;
    /* Inherited by every agent process as descriptors SANDBOX_LISTEN_FD, +1, …; its end of the
     * launcher's socket is SANDBOX_AGENT_FD. The launcher only keeps them. */
    int listen_fds[SANDBOX_LISTEN_MAX];
    size_t listen_fds_len;
    /* The agent process: this binary again, with these arguments (NULL-terminated, argv[0] first).
     */
    char *const *agent_argv;
    const struct sandbox_unpack_ops *unpack; /* static */
    /* May renew what a descriptor of listen_fds shares with the agent process; below the directory
     * `root` are the host's files. asked: on SIGHUP, before it is passed on; else about once a
     * second. True: there is something new, and the agent process gets SIGUSR1. May be NULL. */
    bool (*refresh)(void *arg, int root, bool asked);
    void *refresh_arg;
};

/* First in main(): returns at once, unless this process was started as a slot's spawner (the name
 * "init", no arguments, the launcher's descriptors); then never. A spawner is this binary, executed
 * from a mount that forbids execution from then on, so that no job can run it as /proc/self/exe. */
void sandbox_main_hook(int argc, char **argv);

/* The launcher, until SIGTERM, SIGINT or SIGQUIT: the process's exit status. Call it first in
 * main(), before any thread: it forks, and moves into a mount namespace of its own. Needs root.
 * SIGTERM asks the agent to drain (SIGTERM to it) and waits for its end; SIGQUIT lets it leave at
 * once, and what runs goes on for the next start. SIGHUP is passed on.
 */
int sandbox_launcher_main(const struct sandbox_launcher_config *config);

/* For the agent process, before its first thread: from here on only the system calls of a file
 * server (sys_agent_filter.c). Needs no_new_privs. -Exxx: not confined. */
int sandbox_agent_confine(struct err *e);

#endif
