/*
 * sandbox_msg - the messages between agent and launcher.
 *
 * One SOCK_SEQPACKET message of exactly SANDBOX_MSG_SIZE bytes, little-endian, whatever its type;
 * another length, an unknown type, a type of the other direction, a field that this type does not
 * have and that is not zero, or the wrong number of descriptors end the connection. A RUN's spec
 * travels beside it in a sealed memfd, its secrets in a second one. Pure.
 */
#ifndef AGENT_SANDBOX_SANDBOX_MSG_H
#define AGENT_SANDBOX_SANDBOX_MSG_H

#include <stdint.h>

#include "agent/sandbox/sandbox.h"

enum { SANDBOX_MSG_SIZE = 1536, SANDBOX_MSG_NUMBERS = 16, SANDBOX_READING_WORDS = 32 };

/* Pinned. Below 32: agent to launcher. */
enum sandbox_msg_type {
    SANDBOX_MSG_READY = 1, /* text: status */
    SANDBOX_MSG_PING = 2,
    SANDBOX_MSG_RUN = 3,          /* run, attempt; fds: spec, secrets (if any) */
    SANDBOX_MSG_STOP = 4,         /* run, attempt */
    SANDBOX_MSG_SIGNAL = 5,       /* run, attempt, value: signal */
    SANDBOX_MSG_UNPACK = 6,       /* digest; fd: blob */
    SANDBOX_MSG_REMOVE_RUN = 7,   /* run, attempt */
    SANDBOX_MSG_REMOVE_LAYER = 8, /* digest */
    SANDBOX_MSG_ADOPT = 9,
    SANDBOX_MSG_KEEP_LAYERS = 10,   /* fd: digests, one a line */
    SANDBOX_MSG_EGRESS = 11,        /* run, attempt, record: see sandbox_msg_nets_put() */
    SANDBOX_MSG_HELLO = 32,         /* number: see sandbox_msg_hello() */
    SANDBOX_MSG_STARTED = 33,       /* run, attempt, number, base; fds: telemetry */
    SANDBOX_MSG_ENDED = 34,         /* run, attempt, value: adopted, record, number, base, end */
    SANDBOX_MSG_FAILED = 35,        /* run, attempt, rc, text */
    SANDBOX_MSG_UNPACKED = 36,      /* digest, rc, text, number: bytes, entries; fd: index */
    SANDBOX_MSG_RUN_REMOVED = 37,   /* run, attempt, rc, text */
    SANDBOX_MSG_LAYER_REMOVED = 38, /* digest, rc, text */
    SANDBOX_MSG_ADOPTED = 39,
    SANDBOX_MSG_EGRESS_SET = 40, /* run, attempt, rc, text */
};

enum sandbox_msg_side { SANDBOX_FROM_AGENT, SANDBOX_FROM_LAUNCHER };

/* Numbers of STARTED. */
enum {
    SANDBOX_N_SLOT,
    SANDBOX_N_PID,
    SANDBOX_N_KIND,
    SANDBOX_N_SETUP_US,
    SANDBOX_N_WALL_US,
    SANDBOX_N_ADOPTED,
    SANDBOX_N_PEAK_RESET, /* also of ENDED */
    SANDBOX_N_FILES,      /* bit n: a descriptor for enum telemetry_file n is attached, in order */
    SANDBOX_N_DNS,        /* 1: behind them, the socket that the run's resolver asks */
    SANDBOX_N_RDT,        /* also of ENDED: 1 and the free monitoring groups; 0: no resctrl */
    SANDBOX_N_CACHE,      /* enum sandbox_cache_class that the run is in */
};

/* Numbers of HELLO. */
enum {
    SANDBOX_H_SLOTS,
    SANDBOX_H_CGROUP_VERSION,
    SANDBOX_H_FLAGS, /* enum sandbox_hello_flag bits */
    SANDBOX_H_MEMORY,
    SANDBOX_H_CPUS_MILLI,
    SANDBOX_H_UID_BASE,
};
enum sandbox_hello_flag {
    SANDBOX_HELLO_MEMORY = 1,
    SANDBOX_HELLO_CPU = 2,
    SANDBOX_HELLO_PIDS = 4,
    SANDBOX_HELLO_IO = 8,
    SANDBOX_HELLO_FREEZER = 16,
    SANDBOX_HELLO_PEAK = 32,
    SANDBOX_HELLO_LANDLOCK = 64,
};

struct sandbox_msg {
    uint32_t type; /* enum sandbox_msg_type */
    int32_t rc;    /* 0 or negative */
    uint32_t attempt;
    uint32_t value;
    struct ulid run;
    struct digest digest;
    uint64_t number[SANDBOX_MSG_NUMBERS];
    char text[SANDBOX_TEXT_MAX];
    uint8_t record[SANDBOX_RECORD_SIZE];
    struct telemetry_reading base, end;
};

void sandbox_msg_encode(const struct sandbox_msg *m, uint8_t dst[SANDBOX_MSG_SIZE]);
/* fds: how many descriptors came along. -EBADMSG: refuse it and end the connection. */
int sandbox_msg_decode(const void *p, size_t n, size_t fds, enum sandbox_msg_side from,
                       struct sandbox_msg *ret);

/* Addresses that a run may reach beside its list: at most SANDBOX_MSG_NETS in a message's record,
 * as sandbox_egress_encode() writes them, and zeroes. -EBADMSG: others than single addresses, or
 * out of range. */
enum { SANDBOX_MSG_NETS = 20 };
void sandbox_msg_nets_put(struct sandbox_msg *m, const struct egress_net *nets, size_t n);
int sandbox_msg_nets_get(const struct sandbox_msg *m, struct egress_net nets[SANDBOX_MSG_NETS],
                         size_t *ret_n);

/* A reading as words, for messages and files; of SANDBOX_READING_WORDS, the unused ones are 0. */
void sandbox_reading_to_words(const struct telemetry_reading *r, uint64_t *words);
void sandbox_reading_from_words(const uint64_t *words, struct telemetry_reading *ret);

#endif
