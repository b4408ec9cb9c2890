/*
 * sandbox_internal - what the files of this folder share, and their unit tests. The pure part: the
 * plan of a sandbox, user look-up, the log's layout, file formats. sys_sandbox.h has the rest.
 */
#ifndef AGENT_SANDBOX_SANDBOX_INTERNAL_H
#define AGENT_SANDBOX_SANDBOX_INTERNAL_H

#include "agent/sandbox/sandbox.h"
#include "agent/sandbox/sandbox_msg.h"
#include "common/cur.h"

uint64_t sandbox_checksum(const void *p, size_t n);
/* text, cut to fit. */
void sandbox_text(char dst[SANDBOX_TEXT_MAX], const char *text);
void sandbox_put_le(uint8_t *p, uint64_t v, size_t bytes);

/* ---- destinations ------------------------------------------------------------------------------
 */

/* -EINVAL with the sentence. */
int sandbox_egress_check(const struct sandbox_egress *g, struct err *e);
void sandbox_egress_encode(const struct sandbox_egress *g, struct buf *out);
/* Lengths only: the check comes after. c fails on what is broken; ret->nets is the caller's to free
 * with mem_free(). -ENOMEM. */
int sandbox_egress_decode(struct cur *c, struct sandbox_egress *ret);

/* ---- secrets -----------------------------------------------------------------------------------
 */

struct sandbox_secret_at {
    char file[SANDBOX_SECRET_NAME_MAX + 1];
    uint64_t at; /* in the memory file */
    uint32_t len;
};
/* What sandbox_secrets_encode() wrote, from its head and its size. -EBADMSG. */
int sandbox_secrets_decode(const uint8_t head[SANDBOX_SECRETS_HEAD], uint64_t size,
                           struct sandbox_secret_at v[SANDBOX_SECRETS_MAX], size_t *ret_n);

/* ---- the plan: what the set-up process does, in order, in its new mount namespace ---------------
 */

enum plan_op {
    PLAN_TMPFS = 1, /* at path: size, inodes, mode */
    PLAN_SECRETS,   /* a tmpfs at path for a run's secrets: size, inodes, mode */
    PLAN_DIR,       /* mkdir path, mode; owned by the sandbox's root */
    PLAN_FILE,      /* path with text, mode */
    PLAN_LINK,      /* path, a link to text */
    PLAN_OVERLAY,   /* at path with the options in text */
    PLAN_MOVE,      /* the mount (and all below) at text goes to path */
    PLAN_DEVPTS,    /* a new instance at path, size: most terminals */
    PLAN_PROC,      /* of the new pid namespace, at path */
    PLAN_MASK,      /* path reads as empty, if it exists */
    PLAN_READONLY,  /* path, with what is below, if it exists */
    PLAN_HOSTNAME,  /* text */
    PLAN_ROOT,      /* path is the root from here on, and the present directory */
};

struct plan_step {
    enum plan_op op;
    const char *path; /* relative to the set-up namespace's root */
    const char *text;
    uint64_t size;
    uint64_t inodes;
    uint32_t mode;
};

enum { PLAN_STEPS_MAX = 96, PLAN_TEXT_MAX = 32768, PLAN_OPTIONS_MAX = 4095 };

struct sandbox_plan {
    struct plan_step steps[PLAN_STEPS_MAX + 1]; /* the last takes what does not fit */
    size_t len;
    char text[PLAN_TEXT_MAX]; /* what the steps point to, when it is not static */
    size_t text_len;
    int error;
};

/* What the launcher knows beside the spec. */
struct plan_facts {
    const unsigned
        *layers; /* names of the attached layers ("l/<n>"), as spec->layers: lowest first */
    const char *resolv_conf; /* text for /etc/resolv.conf */
    const char *payload_dir; /* relative path of the payload's own top layer, or NULL */
};

/* Fills *ret. -E2BIG: too many or too long. */
int sandbox_plan_make(const struct sandbox_spec *s, const struct plan_facts *f,
                      struct sandbox_plan *p, struct err *e);
/* The text of /etc/hosts; returns its length. */
enum { SANDBOX_HOSTS_CAP = 400 };
size_t sandbox_plan_hosts(const char *hostname, char dst[SANDBOX_HOSTS_CAP]);
/* Masked and read-only paths, relative to "/": NULL-terminated. The plan uses the ones in proc, the
 * template of /sys those in sys. */
extern const char *const sandbox_masked_proc[];
extern const char *const sandbox_masked_sys[];
extern const char *const sandbox_readonly_proc[];
/* Where a run on network nat finds its resolver, inside its own network namespace. */
#define SANDBOX_DNS_ADDR "127.0.0.53"
/* The resolv.conf of such a run, from the host's own: that resolver, and the host's other lines. */
void sandbox_resolv_nat(struct str text, struct buf *out);
/* The host's resolv.conf without resolvers that only the host can reach. At most 8 KiB. */
void sandbox_resolv_filter(struct str text, struct buf *out);

/* ---- prepared sandboxes: one serves any run that is the same in what it is built from -----------
 */

enum {
    POOL_WINDOW_MS = 30000,
    POOL_IDLE_MS = 60000,
    POOL_BURST_MS = 25, /* about what it takes to build some */
    POOL_BAD_MS = 10000 /* no more of a kind that cannot be built */
};

/* Layers, user, working directory, network, the sizes of its file systems and whether there is one
 * for secrets are the same. */
bool sandbox_pool_same(const struct sandbox_spec *a, const struct sandbox_spec *b);

/* How much one kind of run is in use. Zero it to begin. */
struct pool_use {
    uint64_t used_ms; /* when the last run began */
    uint64_t since_ms;
    uint64_t burst_ms;
    uint32_t live;              /* now */
    uint32_t burst;             /* begun since burst_ms */
    uint32_t peak, peak_before; /* most of either in this window, in the one before */
};
void sandbox_pool_begin(struct pool_use *u, uint64_t now_ms);
void sandbox_pool_end(struct pool_use *u);
/* How many should be ready: as many as lately ran at once or began in a burst; none after
 * POOL_IDLE_MS without a run. */
uint32_t sandbox_pool_wanted(struct pool_use *u, uint64_t now_ms);
/* meminfo: the text of /proc/meminfo. Is less than a twentieth of the memory available? */
bool sandbox_pool_pressed(struct str meminfo);

/* ---- users of an image
 * ---------------------------------------------------------------------------- */

enum { SANDBOX_GROUPS_MAX = 256, SANDBOX_PASSWD_MAX = 1 << 20, SANDBOX_PASSWD_LINES = 65536 };

struct sandbox_user {
    uint32_t uid;
    uint32_t gid;
    uint32_t groups[SANDBOX_GROUPS_MAX];
    size_t groups_len;
    char home[256]; /* "/" when unknown */
};
/* user: as in an image's config. passwd, group: the image's files ("" when there are none).
 * -ENOENT: no such user or group; -EINVAL: ids over 65535, malformed. */
int sandbox_user_find(const char *user, struct str passwd, struct str group,
                      struct sandbox_user *ret, struct err *e);

/* ---- the log's two files
 * ------------------------------------------------------------------------- */

/* stderr holds the first head bytes, stderr.tail (a header, then a ring) the last of what came
 * later. While the run lives, the oldest LOG_MARGIN bytes of a full ring may be overwritten at any
 * moment and are not shown. */
enum { LOG_HEADER = 32, LOG_MARGIN = 65536, LOG_MARK_MAX = 96 };

struct log_shape {
    uint64_t head; /* bytes of the file stderr */
    uint64_t ring; /* bytes of the ring */
};
struct log_shape sandbox_log_shape_of(uint64_t log_bytes);
void sandbox_log_header_encode(const struct log_shape *s, uint64_t total, uint8_t dst[LOG_HEADER]);
int sandbox_log_header_decode(const uint8_t src[LOG_HEADER], struct log_shape *ret,
                              uint64_t *ret_total);

/* Where the byte at position pos of a stream of total bytes is. */
enum log_where { LOG_HEAD, LOG_GAP, LOG_RING, LOG_END };
struct log_piece {
    enum log_where where;
    uint64_t offset; /* in the file (LOG_RING: counted behind the header) */
    uint64_t n;      /* bytes in one go; of LOG_GAP: how many are lost */
};
struct log_piece sandbox_log_locate(const struct log_shape *s, uint64_t total, uint64_t pos,
                                    bool live);
/* The visible mark; returns its length (< LOG_MARK_MAX). */
size_t sandbox_log_mark(uint64_t lost, char dst[LOG_MARK_MAX]);

/* One time mark of the file index: from offset on, the stream's bytes were written at wall_us. */
enum { INDEX_ENTRY = 16, INDEX_ENTRIES_MAX = 262144, INDEX_STEP_US = 10000 };
void sandbox_index_entry_encode(enum sandbox_stream s, int64_t wall_us, uint64_t offset,
                                uint8_t dst[INDEX_ENTRY]);
void sandbox_index_entry_decode(const uint8_t src[INDEX_ENTRY], enum sandbox_stream *ret_s,
                                int64_t *ret_wall_us, uint64_t *ret_offset);

/* ---- the launcher's own files in a run's directory
 * ------------------------------------------------ */

/* File `sandbox`: what a later launcher needs to take a run up again. */
struct sandbox_state {
    char boot_id[37];
    uint32_t slot;
    int64_t pid; /* 0: not started yet */
    uint64_t start_ticks;
    int64_t started_wall_us;
    uint64_t setup_us;
    uint32_t kind;
    bool peak_was_reset;
    bool nat;           /* it has a network of its own */
    uint32_t rdt_group; /* its monitoring group and 1; 0: none */
    enum sandbox_cache_class cache;
    struct telemetry_reading base;
    uint32_t layers_len;
    struct digest layers[SANDBOX_LAYERS_MAX];
};
enum { STATE_MAX = 128 + 8 * SANDBOX_READING_WORDS + 72 * SANDBOX_LAYERS_MAX };
size_t sandbox_state_encode(const struct sandbox_state *s, uint8_t dst[STATE_MAX]);
int sandbox_state_decode(const void *p, size_t n, struct sandbox_state *ret);

/* File `usage`. */
enum { USAGE_SIZE = 8 + 8 + 2 * 8 * SANDBOX_READING_WORDS + 8 };
void sandbox_usage_encode(const struct sandbox_usage *u, uint8_t dst[USAGE_SIZE]);
int sandbox_usage_decode(const void *p, size_t n, struct sandbox_usage *ret);

#endif
