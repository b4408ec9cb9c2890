/*
 * sandbox_rdt - Intel RDT by resctrl, the pure part: what its files say, which classes of service
 * there are, which monitoring group a run gets, what a refusal means.
 *
 * Pure; sys_resctrl.c does what is decided here. Facts of the file system: the kernel's
 * Documentation/filesystems/resctrl.rst and fs/resctrl. The classes: never one per job (per-job
 * partitions gain 1.7 % and hurt 30 % of workloads, clusters gain 24 %: KPart, HPCA'18), but
 *
 *   default    the root group, which is everybody's and left as it is
 *   sensitive  the top ways, without the polluters' and without those that devices share
 *   polluter   the lowest two ways that devices do not share (default overlaps them), and half of
 *              the memory bandwidth where that can be said in percent
 *
 * and one class of service of the budget of four is left to others.
 */
#ifndef AGENT_SANDBOX_SANDBOX_RDT_H
#define AGENT_SANDBOX_SANDBOX_RDT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/hardware/hardware.h"
#include "agent/sandbox/sandbox.h"
#include "common/buf.h"
#include "common/str.h"

enum {
    RDT_DOMAINS_MAX = 64,
    RDT_GROUPS_MAX = 1024,
    RDT_TEXT_MAX = 8192, /* schemata of large machines; more is not read */
    RDT_NAME_CAP = 64,
    RDT_RETRY_MS = 1000,       /* limbo is looked through once a second */
    RDT_CLASS_RETRY_MS = 60000 /* a class that could not be made */
};

/* ---- schemata ----------------------------------------------------------------------------------
 */

enum rdt_resource { RDT_L3, RDT_L3CODE, RDT_L3DATA, RDT_MB, RDT_RESOURCES };
/* How memory bandwidth is said: read off the root group's values. */
enum rdt_bandwidth {
    RDT_NO_BANDWIDTH,
    RDT_PERCENT,
    RDT_MIBPS,  /* -o mba_MBps: the default is 4294967295 */
    RDT_EIGHTHS /* AMD: units of 1/8 GB/s, to 2048 */
};

struct rdt_schemata {
    bool has[RDT_RESOURCES];
    uint32_t len[RDT_RESOURCES]; /* domains of each */
    uint32_t id[RDT_RESOURCES][RDT_DOMAINS_MAX];
    uint64_t value[RDT_RESOURCES][RDT_DOMAINS_MAX];
};

/* Reads a schemata file, of old kernels (padded values) and new ones; lines of other resources (L2,
 * SMBA) and lines that are none ("L3:uninitialized") are passed over. 0, or -EINVAL when no line
 * was understood. */
int sandbox_rdt_schemata_parse(struct str text, struct rdt_schemata *ret);
enum rdt_bandwidth sandbox_rdt_bandwidth(const struct rdt_schemata *root);

/* What a class may have; masks 0: as the root group. */
struct rdt_class {
    uint64_t mask;    /* cache ways */
    uint32_t percent; /* memory bandwidth; 0: all */
};

/* The classes for this machine. False: there is nothing to part (no L3 allocation, too few ways or
 * classes of service); ret is all zero then. */
bool sandbox_rdt_classes(const struct hardware_rdt *r, enum rdt_bandwidth bandwidth,
                         struct rdt_class ret[SANDBOX_CACHE_CLASSES]);
/* Appends what is to be written to a class's schemata in one write: a line per resource, with every
 * domain that the root group has, each with its newline. out's sticky error says when it is short.
 */
void sandbox_rdt_schemata_write(const struct rdt_schemata *root, const struct rdt_class *c,
                                struct buf *out);

/* ---- refusals ----------------------------------------------------------------------------------
 */

/* What to do about one. */
enum rdt_answer {
    RDT_LATER,   /* freed monitoring ids wait for their lines to leave the cache: in a second */
    RDT_NO_MORE, /* out of monitoring ids or of classes of service: others hold them */
    RDT_TASK,    /* this task is gone, or not ours to move: that one run is not measured */
    RDT_CLASS,   /* the class cannot be as wished: its runs go to the default */
    RDT_GONE,    /* the file system is no longer there */
    RDT_BROKEN   /* nothing that is known: as RDT_CLASS, and said with the kernel's words */
};
/* rc: negative errno of the call that failed; status: info/last_cmd_status as read after it (""
 * when it could not be). Words decide before numbers, in either case. */
enum rdt_answer sandbox_rdt_answer(int rc, struct str status);
/* The status on one line, printable, for the log: at most cap - 1 bytes of it. */
void sandbox_rdt_status_line(struct str status, char *dst, size_t cap);

/* ---- monitoring groups -------------------------------------------------------------------------
 */

/*
 *   ABSENT -> FREE -> USED -> FREE …      made once, used again and again: a freed monitoring id
 *     ^________|                          would have to wait in limbo
 */
enum rdt_group_state { RDT_ABSENT, RDT_FREE, RDT_USED };
struct rdt_group {
    enum rdt_group_state state;
    enum sandbox_cache_class class; /* FREE and USED: in whose mon_groups it is */
    uint64_t since_ms;              /* FREE: since when */
};

struct rdt_pool {
    struct rdt_group *groups; /* the caller's, len of them, zeroed */
    uint32_t len;
    uint64_t retry_ms; /* none is made before this; 0: at once */
};

enum rdt_act {
    RDT_NONE,   /* there is none for this run */
    RDT_USE,    /* the group is there, and now USED */
    RDT_MAKE,   /* make it, then say so (sandbox_rdt_made) */
    RDT_REPLACE /* the same, but remove it from the class `was` first: its id goes to limbo */
};
struct rdt_step {
    enum rdt_act act;
    uint32_t group;
    enum sandbox_cache_class was;
};

/* How many groups to keep: no more than slots, nor than the ids that the classes leave, nor
 * RDT_GROUPS_MAX; a quarter of the ids stays for others. */
uint32_t sandbox_rdt_pool_len(uint32_t rmids, uint32_t slots);
/* A group in this class: of the free ones that which has rested longest (its cache lines are
 * gone), else a new one, else one of another class. */
struct rdt_step sandbox_rdt_want(struct rdt_pool *p, enum sandbox_cache_class class,
                                 uint64_t now_ms);
/* What became of MAKE or REPLACE: with 0 it is USED. removed: REPLACE's old one is gone. */
void sandbox_rdt_made(struct rdt_pool *p, uint32_t group, enum sandbox_cache_class class, int rc,
                      bool removed, uint64_t now_ms);
void sandbox_rdt_over(struct rdt_pool *p, uint32_t group, uint64_t now_ms); /* USED: FREE again */
/* Found at start: USED by a live run, or FREE. False: there is no such place. */
bool sandbox_rdt_found(struct rdt_pool *p, uint32_t group, enum sandbox_cache_class class,
                       bool used, uint64_t now_ms);
uint32_t sandbox_rdt_free(const struct rdt_pool *p); /* groups that a run could have now */

/* "PREFIX.N" of a monitoring group, "PREFIX.sensitive" of a class. */
void sandbox_rdt_group_name(const char *prefix, uint32_t group, char dst[RDT_NAME_CAP]);
void sandbox_rdt_class_name(const char *prefix, enum sandbox_cache_class class,
                            char dst[RDT_NAME_CAP]); /* not of the default */
/* Is the name one of ours, and if so, which group (ret < UINT32_MAX) or other thing? */
bool sandbox_rdt_name_ours(const char *prefix, const char *name, uint32_t *ret_group);

#endif
