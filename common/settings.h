/*
 * settings - everything that agent.conf says (DESIGN.md section 8), as one struct of plain values.
 *
 * Pure. common/sys/sys_settings.h reads the file. A settings struct owns no memory: copy it freely.
 * Sizes are bytes (uint64_t), durations milliseconds (…_ms), CPUs thousandths (…_milli). Text is
 * NUL-terminated; "" means not set. Lists are comma-separated without blanks: take pieces with
 * str_split().
 */
#ifndef COMMON_SETTINGS_H
#define COMMON_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/conf.h"
#include "common/err.h"

enum {
    SETTINGS_TEXT_MAX = 256,  /* names, addresses, labels of a group */
    SETTINGS_PATH_MAX = 1024, /* paths, URLs */
    SETTINGS_LIST_MAX = 4096, /* comma lists */
};

enum settings_network { SETTINGS_NETWORK_NONE, SETTINGS_NETWORK_HOST, SETTINGS_NETWORK_NAT };
enum settings_profile { SETTINGS_PROFILE_LAN, SETTINGS_PROFILE_WAN, SETTINGS_PROFILE_LOCAL };
enum settings_policy {
    SETTINGS_POLICY_LEARNED,
    SETTINGS_POLICY_LEAST_LOADED,
    SETTINGS_POLICY_POWER_OF_TWO,
    SETTINGS_POLICY_RANDOM,
};

struct settings_node {
    char name[SETTINGS_TEXT_MAX]; /* "": the host name; sys_settings_load fills it in */
    char data_dir[SETTINGS_PATH_MAX];
    char user[SETTINGS_TEXT_MAX];
    uint64_t slots;                            /* runs at a time; 0: auto */
    uint64_t memory;                           /* bytes for runs; 0: auto */
    char labels[SETTINGS_LIST_MAX];            /* key=value,… */
    char capabilities_mask[SETTINGS_LIST_MAX]; /* capabilities that this node hides */
};

struct settings_http {
    char listen[SETTINGS_TEXT_MAX];
    char advertise[SETTINGS_TEXT_MAX]; /* "": listen */
    char tls_cert[SETTINGS_PATH_MAX];
    char tls_key[SETTINGS_PATH_MAX];
    char tls_client_ca[SETTINGS_PATH_MAX];
    char tls_crl[SETTINGS_PATH_MAX];
    uint64_t max_body_bytes;
    uint64_t max_event_bytes;
    uint64_t max_connections;
    uint64_t header_timeout_ms;
    uint64_t body_timeout_ms; /* without a byte */
    uint64_t idle_timeout_ms;
    uint64_t wait_max_ms; /* the longest Prefer: wait */
};

struct settings_gossip {
    char listen[SETTINGS_TEXT_MAX];
    char advertise[SETTINGS_TEXT_MAX];
    char join[SETTINGS_LIST_MAX];
    char key_file[SETTINGS_PATH_MAX];
    char label[SETTINGS_TEXT_MAX];
    unsigned profile;            /* enum settings_profile */
    char vsn[SETTINGS_TEXT_MAX]; /* six numbers */
};

struct settings_auth {
    char tokens_file[SETTINGS_PATH_MAX];
    bool insecure;
};

struct settings_store {
    uint64_t replicas;
    uint64_t replicas_min;
    uint64_t replicate_output_bytes;
    uint64_t retention_ms;
    uint64_t retention_failed_ms;
    uint64_t retention_bytes;
    uint64_t max_queued;     /* runs waiting on this node */
    uint64_t min_free_bytes; /* less free disk: 507 */
};

struct settings_secrets {
    char key_file[SETTINGS_PATH_MAX]; /* "": a key of this node's own */
};

struct settings_image {
    uint64_t max_bytes;   /* the blob store; beyond it unused images go, then pushes get 507 */
    uint64_t layer_bytes; /* one layer, unpacked */
    uint64_t layer_entries;
    uint64_t layers;
    uint64_t manifest_bytes;
    uint64_t upload_timeout_ms; /* an unfinished upload is dropped */
};

struct settings_registry {
    char upstreams[SETTINGS_LIST_MAX];
    char credentials_file[SETTINGS_PATH_MAX];
    char ca_file[SETTINGS_PATH_MAX]; /* "": the system's */
    bool proxy;
    uint64_t pull_timeout_ms;
};

struct settings_routing {
    unsigned policy; /* enum settings_policy */
    uint64_t probes;
};

struct settings_sandbox {
    unsigned network; /* enum settings_network: the default of a job */
    bool allow_host_network;
    bool allow_nat;
    bool nat_forwarding;                   /* may the agent make this machine forward packets? */
    char nat_pool4[SETTINGS_TEXT_MAX];     /* network of the slots */
    char nat_pool6[SETTINGS_TEXT_MAX];     /* network, "auto" or "none" */
    char nat_resolvers[SETTINGS_LIST_MAX]; /* addresses; "": /etc/resolv.conf's */
    char nat_closed[SETTINGS_LIST_MAX];    /* networks: closed beside the built-in list */
    char nat_open[SETTINGS_LIST_MAX];      /* destinations: open though closed, or this machine's */
    uint64_t uid_base;
    uint64_t cpus_milli; /* default limit of a job; 0: none */
    uint64_t memory;     /* default limit of a job */
    uint64_t memory_max; /* most that a job may ask for; 0: node.memory */
    uint64_t pids;       /* default limit of a job */
    uint64_t timeout_ms; /* default of a job */
    uint64_t timeout_max_ms;
    uint64_t grace_ms;
    uint64_t disk_bytes; /* writable layer, default and most */
    uint64_t disk_inodes;
    uint64_t output_bytes;
    uint64_t log_bytes;
    uint64_t shm_bytes;
    uint64_t nofile;
    uint64_t core_bytes; /* RLIMIT_CORE */
    uint64_t prepared;   /* sandboxes kept ready; 0: none */
};

#define SETTINGS_RESCTRL_PATH "/sys/fs/resctrl"

struct settings_telemetry {
    uint64_t interval_ms;
    char resctrl_path[SETTINGS_PATH_MAX];
    char cgroup_path[SETTINGS_PATH_MAX]; /* "": found */
};

struct settings_mqtt {
    char url[SETTINGS_PATH_MAX];
    char username[SETTINGS_TEXT_MAX];
    char password_file[SETTINGS_PATH_MAX];
};

struct settings_callbacks {
    bool allow_private;
    char ca_file[SETTINGS_PATH_MAX]; /* "": the system's */
    uint64_t timeout_ms;
};

struct settings_log {
    unsigned level;  /* enum log_level */
    unsigned format; /* enum log_format */
};

struct settings {
    struct settings_node node;
    struct settings_http http;
    struct settings_gossip gossip;
    struct settings_auth auth;
    struct settings_store store;
    struct settings_secrets secrets;
    struct settings_image image;
    struct settings_registry registry;
    struct settings_routing routing;
    struct settings_sandbox sandbox;
    struct settings_telemetry telemetry;
    struct settings_mqtt mqtt;
    struct settings_callbacks callbacks;
    struct settings_log log;
};

extern const struct conf_table settings_table;

void settings_defaults(struct settings *s);
/* Defaults, then the file's text (name is for messages; an empty text is fine), then the overrides
 * ("--section.key=value"), then settings_check(). *ret is untouched on failure. -EINVAL,
 * -ENOMEM. */
int settings_parse(const char *name, struct str text, const char *const *overrides,
                   size_t overrides_len, struct settings *ret, struct err *e);
/* What holds between keys: TLS key with certificate, replicas_min <= replicas, host network needs
 * tokens, no open API or gossip beyond loopback unless auth.insecure, … -EINVAL. */
int settings_check(const struct settings *s, struct err *e);

/* Calls changed() for every key that differs. */
typedef void settings_changed_fn(void *arg, const struct conf_key *key);
void settings_diff(const struct settings *a, const struct settings *b, settings_changed_fn *changed,
                   void *arg);
/* Takes the reloadable keys of next over into *s, all or none, and sets *ret_taken to how many
 * changed. Appends to `kept` (may be NULL) the names of the keys that differ but need a restart:
 * "node.slots, http.listen". -EINVAL: what would result contradicts itself (settings_check()); *s
 * is as before. -ENOMEM. */
int settings_reload(struct settings *s, const struct settings *next, size_t *ret_taken,
                    struct buf *kept, struct err *e);

/* The text of agent.conf.example. */
void settings_example(struct buf *out);

/* Is the host part of host:port a loopback address ("localhost", 127.…, [::1])? */
bool settings_addr_is_loopback(const char *addr);
/* Host (without brackets) and port of a checked address. -EINVAL, -ENAMETOOLONG. */
int settings_addr_split(const char *addr, char *host, size_t host_cap, uint16_t *ret_port);

#endif
