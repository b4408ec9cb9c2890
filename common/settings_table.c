/* The table of agent.conf: one row per key. */
#include "common/insist.h"
#include "common/settings.h"

#define KIB(n) (UINT64_C(n) << 10)
#define MIB(n) (UINT64_C(n) << 20)
#define GIB(n) (UINT64_C(n) << 30)
#define TIB(n) (UINT64_C(n) << 40)
#define SECONDS(n) (UINT64_C(n) * 1000)
#define HOURS(n) (UINT64_C(n) * 3600000)
#define DAYS(n) (UINT64_C(n) * 86400000)

/* NOLINTBEGIN(bugprone-macro-parentheses): names of members */
#define AT(section_, member_) \
    .section = #section_, .offset = offsetof(struct settings, section_.member_), \
    .size = sizeof(((struct settings *)NULL)->section_.member_)
/* NOLINTEND(bugprone-macro-parentheses) */

/* The values of the enums in settings.h, and of log.h's. */
static const char *const networks[] = { "none", "host", "nat", NULL };
static const char *const profiles[] = { "lan", "wan", "local", NULL };
static const char *const policies[] = { "learned", "least-loaded", "power-of-two", "random", NULL };
static const char *const levels[] = { "error", "warn", "info", "debug", NULL };
static const char *const formats[] = { "text", "json", NULL };

static const struct conf_section sections[] = {
    { "node", "This machine." },
    { "http", "The API, the registry, the dashboard and node-to-node traffic: one TCP port." },
    { "gossip", "Membership: one UDP and TCP port." },
    { "auth", "Who may do what." },
    { "store", "Runs and their output on disk." },
    { "secrets", "Secrets of jobs and web hooks." },
    { "image", "The image store of this node." },
    { "registry", "Other registries that images come from." },
    { "routing", "How the processor for a run is chosen." },
    { "sandbox", "What a run may use. A job's own limits stand within these." },
    { "telemetry", "What is measured while runs run." },
    { "mqtt", "Sensors: the broker whose topics trigger jobs." },
    { "callbacks", "Who is told of a run's end." },
    { "log", "The agent's own log, on stderr." },
};

static const struct conf_key keys[] = {
    /* --- node --- */
    { AT(node, name), .key = "name", .type = CONF_TEXT, .def = "",
      .help =
          "This node's name, unique in the cluster; letters, digits, '-', '.' and '_'. Not set: the\n"
          "host name." },
    { AT(node, data_dir), .key = "data_dir", .type = CONF_PATH, .def = "/var/lib/agent",
      .help =
          "Where everything durable lives: records, payloads, output, images, run directories." },
    { AT(node, user), .key = "user", .type = CONF_TEXT, .def = "agent",
      .help = "The unprivileged account that the network-facing process runs as." },
    { AT(node, slots), .key = "slots", .type = CONF_INT, .def = "auto", .min = 1, .max = 4096,
      .zero = "auto",
      .help = "Runs at a time. auto: four per CPU, and at least 8. Memory limits them as well." },
    { AT(node, memory), .key = "memory", .type = CONF_SIZE, .def = "auto", .min = MIB(16),
      .max = TIB(64), .zero = "auto", .reloadable = true,
      .help =
          "Memory that all runs together may reserve. auto: nine tenths of what the machine (or our\n"
          "cgroup) has. A job's default limit is never more." },
    { AT(node, labels), .key = "labels", .type = CONF_LIST, .def = "",
      .help = "key=value pairs that jobs can ask for." },
    { AT(node, capabilities_mask), .key = "capabilities_mask", .type = CONF_LIST, .def = "",
      .help =
          "CPU capabilities that this node keeps to itself (cpu-cpuid.AESNI, …), to test placement." },

    /* --- http --- */
    { AT(http, listen), .key = "listen", .type = CONF_ADDR, .def = "127.0.0.1:7575",
      .help =
          "Address and port to listen on. Beyond loopback TLS and tokens are needed (auth.insecure)." },
    { AT(http, advertise), .key = "advertise", .type = CONF_ADDR, .def = "",
      .help = "Address and port that other nodes reach this one by. Not set: http.listen." },
    { AT(http, tls_cert), .key = "tls_cert", .type = CONF_PATH, .def = "",
      .help =
          "PEM file with this node's certificate chain; its first name is the node's. Switches TLS on.\n"
          "root reads these files ('agent ca issue' makes them); a change is seen within seconds." },
    { AT(http, tls_key), .key = "tls_key", .type = CONF_PATH, .def = "",
      .help = "PEM file with the certificate's private key." },
    { AT(http, tls_client_ca), .key = "tls_client_ca", .type = CONF_PATH, .def = "",
      .help =
          "PEM file with the authorities that node and client certificates are checked against." },
    { AT(http, tls_crl), .key = "tls_crl", .type = CONF_PATH, .def = "",
      .help =
          "PEM file with revocation lists, one of each authority ('agent ca revoke' keeps it)." },
    { AT(http, max_body_bytes), .key = "max_body_bytes", .type = CONF_SIZE, .def = "1GiB",
      .min = KIB(1), .max = TIB(1), .reloadable = true,
      .help = "The longest payload of a run; it is streamed to disk. More is answered with 413." },
    { AT(http, max_event_bytes), .key = "max_event_bytes", .type = CONF_SIZE, .def = "1MiB",
      .min = KIB(1), .max = MIB(64), .reloadable = true,
      .help =
          "The longest web hook, and request with events; held in memory until it is verified." },
    { AT(http, max_connections), .key = "max_connections", .type = CONF_INT, .def = "12000",
      .min = 16, .max = 1000000, .help = "Connections at a time; more are closed at once." },
    { AT(http, header_timeout_ms), .key = "header_timeout", .type = CONF_DURATION, .def = "10s",
      .min = 100, .max = HOURS(1), .reloadable = true,
      .help = "A request's head must be complete within this time." },
    { AT(http, body_timeout_ms), .key = "body_timeout", .type = CONF_DURATION, .def = "30s",
      .min = 100, .max = HOURS(1), .reloadable = true,
      .help = "A body, or a client that reads an answer, may make no progress for this long." },
    { AT(http, idle_timeout_ms), .key = "idle_timeout", .type = CONF_DURATION, .def = "75s",
      .min = SECONDS(1), .max = DAYS(1), .reloadable = true,
      .help = "A connection without a request is closed after this time." },
    { AT(http, wait_max_ms), .key = "wait_max", .type = CONF_DURATION, .def = "5m",
      .min = SECONDS(1), .max = DAYS(1), .reloadable = true,
      .help = "The longest that 'Prefer: wait=N' waits." },

    /* --- gossip --- */
    { AT(gossip, listen), .key = "listen", .type = CONF_ADDR, .def = "127.0.0.1:7946",
      .help =
          "Address and port to listen on, UDP and TCP. Beyond loopback gossip.key_file is needed\n"
          "(auth.insecure)." },
    { AT(gossip, advertise), .key = "advertise", .type = CONF_ADDR, .def = "",
      .help = "Address and port that other nodes reach this one by. Not set: gossip.listen." },
    { AT(gossip, join), .key = "join", .type = CONF_LIST, .def = "",
      .help = "Members to join at start: host:port, …; one that answers is enough." },
    { AT(gossip, key_file), .key = "key_file", .type = CONF_PATH, .def = "",
      .help =
          "File with the cluster's keys, base64, one per line; the first one encrypts ('agent keygen').\n"
          "root reads it; a change is seen within seconds." },
    { AT(gossip, label), .key = "label", .type = CONF_TEXT, .def = "", .max = 255,
      .help =
          "Packets with another label are dropped: keeps clusters apart that share addresses." },
    { AT(gossip, profile), .key = "profile", .type = CONF_CHOICE, .def = "lan", .choices = profiles,
      .help = "Timing of probes and gossip." },
    { AT(gossip, vsn), .key = "vsn", .type = CONF_LIST, .def = "1,5,2,0,0,0",
      .help =
          "Protocol versions that are announced: least, most, current, and the delegate's three." },

    /* --- auth --- */
    { AT(auth, tokens_file), .key = "tokens_file", .type = CONF_PATH, .def = "", .reloadable = true,
      .help =
          "File with hashed API tokens, one line each ('agent token new' prints it). node.user must be\n"
          "able to read it (root:agent, mode 640); SIGHUP reads it again. Not set: no token is asked\n"
          "for, which is allowed on loopback only." },
    { AT(auth, insecure), .key = "insecure", .type = CONF_BOOL, .def = "no",
      .help =
          "yes: listen beyond loopback without TLS, tokens or gossip key. Anyone who reaches the ports\n"
          "can then run programs on this machine." },

    /* --- store --- */
    { AT(store, replicas), .key = "replicas", .type = CONF_INT, .def = "2", .min = 1, .max = 7,
      .reloadable = true,
      .help = "Members that hold each run's record and payload, this one counted." },
    { AT(store, replicas_min), .key = "replicas_min", .type = CONF_INT, .def = "1", .min = 1,
      .max = 7, .reloadable = true,
      .help = "With fewer of them alive new runs are refused (503)." },
    { AT(store, replicate_output_bytes), .key = "replicate_output_bytes", .type = CONF_SIZE,
      .def = "1MiB", .max = GIB(1), .reloadable = true,
      .help = "Output up to this size is replicated with the run's end." },
    { AT(store, retention_ms), .key = "retention", .type = CONF_DURATION, .def = "7d", .min = 1000,
      .max = DAYS(3650), .reloadable = true,
      .help = "Ended runs, their payload and output are kept this long." },
    { AT(store, retention_failed_ms), .key = "retention_failed", .type = CONF_DURATION,
      .def = "30d", .min = 1000, .max = DAYS(3650), .reloadable = true,
      .help = "The same for runs that failed for good: 'agent failed' lists and retries them." },
    { AT(store, retention_bytes), .key = "retention_bytes", .type = CONF_SIZE, .def = "10GiB",
      .min = MIB(1), .max = TIB(64), .reloadable = true,
      .help = "Payloads, output and logs of ended runs may take this much; the oldest go first." },
    { AT(store, max_queued), .key = "max_queued", .type = CONF_INT, .def = "100000", .min = 1,
      .max = 10000000, .reloadable = true,
      .help = "Runs that may wait on this node; more are answered with 503 and Retry-After." },
    { AT(store, min_free_bytes), .key = "min_free_bytes", .type = CONF_SIZE, .def = "256MiB",
      .max = TIB(1), .reloadable = true,
      .help = "With less free on the data directory's disk new work is refused (507)." },

    /* --- secrets --- */
    { AT(secrets, key_file), .key = "key_file", .type = CONF_PATH, .def = "",
      .help =
          "File with the key that secrets are sealed with, the same on every node of a cluster:\n"
          "32 bytes in base64 ('agent keygen' makes one), readable by node.user. Not set: a key\n"
          "of this node's own, made at its first start." },

    /* --- image --- */
    { AT(image, max_bytes), .key = "max_bytes", .type = CONF_SIZE, .def = "20GiB", .min = MIB(1),
      .max = TIB(64), .reloadable = true,
      .help =
          "Size of the image store, blobs and unpacked layers. When it is full unused images go, least\n"
          "recently used first; when nothing can go a push is answered with 507." },
    { AT(image, layer_bytes), .key = "layer_bytes", .type = CONF_SIZE, .def = "10GiB",
      .min = KIB(64), .max = TIB(1), .reloadable = true,
      .help = "The most that one layer may unpack to." },
    { AT(image, layer_entries), .key = "layer_entries", .type = CONF_INT, .def = "1000000",
      .min = 16, .max = 100000000, .reloadable = true,
      .help = "Files and directories in one layer." },
    { AT(image, layers), .key = "layers", .type = CONF_INT, .def = "127", .min = 1, .max = 500,
      .reloadable = true, .help = "Layers of one image." },
    { AT(image, manifest_bytes), .key = "manifest_bytes", .type = CONF_SIZE, .def = "4MiB",
      .min = KIB(4), .max = MIB(16), .reloadable = true, .help = "The longest manifest." },
    { AT(image, upload_timeout_ms), .key = "upload_timeout", .type = CONF_DURATION, .def = "1h",
      .min = SECONDS(10), .max = DAYS(7), .reloadable = true,
      .help = "An unfinished upload that nobody touches is dropped after this time." },

    /* --- registry --- */
    { AT(registry, upstreams), .key = "upstreams", .type = CONF_LIST, .def = "", .reloadable = true,
      .help =
          "NAME=URL pairs: a repository that begins with NAME/ and is not here is pulled from URL, as\n"
          "the rest of its name (after the URL's path). NAME * is every repository. Several URLs,\n"
          "with | between them, are tried in turn. hub=https://registry.example,*=http://cache:5000 is one." },
    { AT(registry, credentials_file), .key = "credentials_file", .type = CONF_PATH, .def = "",
      .reloadable = true,
      .help =
          "Users and passwords for the upstreams: a file in the format of Docker's config.json that\n"
          "node.user can read." },
    { AT(registry, ca_file), .key = "ca_file", .type = CONF_PATH, .def = "", .reloadable = true,
      .help =
          "PEM file with the authorities that upstreams' certificates are checked against. Not set:\n"
          "the system's." },
    { AT(registry, proxy), .key = "proxy", .type = CONF_BOOL, .def = "no", .reloadable = true,
      .help =
          "Whether a client that asks /v2 for an image of an upstream gets it pulled, and then served." },
    { AT(registry, pull_timeout_ms), .key = "pull_timeout", .type = CONF_DURATION, .def = "30m",
      .min = SECONDS(1), .max = DAYS(7), .reloadable = true,
      .help = "An image that has not come by then is given up; what came of it is thrown away." },

    /* --- routing --- */
    { AT(routing, policy), .key = "policy", .type = CONF_CHOICE, .def = "learned",
      .choices = policies, .reloadable = true,
      .help = "How a node is chosen among those that can run a job." },
    { AT(routing, probes), .key = "probes", .type = CONF_INT, .def = "4", .min = 1, .max = 64,
      .reloadable = true,
      .help = "Candidates that are asked for their present load before a run is placed." },

    /* --- sandbox --- */
    { AT(sandbox, network), .key = "network", .type = CONF_CHOICE, .def = "none",
      .choices = networks, .reloadable = true, .help = "The network of jobs that do not say." },
    { AT(sandbox, allow_host_network), .key = "allow_host_network", .type = CONF_BOOL, .def = "no",
      .help =
          "May a job ask for the machine's network? Needs auth.tokens_file: a job could otherwise call\n"
          "this API." },
    { AT(sandbox, allow_nat), .key = "allow_nat", .type = CONF_BOOL, .def = "yes",
      .help =
          "May a job ask for a network of its own, from which it reaches others (network nat)? Needs\n"
          "nf_tables, veth and forwarding: see agent doctor." },
    { AT(sandbox, nat_forwarding), .key = "nat_forwarding", .type = CONF_BOOL, .def = "no",
      .help =
          "May the agent switch forwarding (net.ipv4.ip_forward, and of IPv6) on when a job wants the\n"
          "network and it is off? Then the agent's own jobs are forwarded, everything else is dropped\n"
          "as before, and it is switched off again at the end. no: jobs with network nat fail instead." },
    { AT(sandbox, nat_pool4), .key = "nat_pool4", .type = CONF_TEXT, .def = "10.203.0.0/16",
      .help =
          "Private IPv4 network for the slots, two addresses each: a prefix of 8 to 31, used by nothing\n"
          "but agents. This node takes a part of it that follows from node.data_dir." },
    { AT(sandbox, nat_pool6), .key = "nat_pool6", .type = CONF_TEXT, .def = "auto",
      .help =
          "Private IPv6 network for the slots: a prefix of 16 to 112. auto: a unique local /48 made from\n"
          "the machine's id. none: no IPv6." },
    { AT(sandbox, nat_resolvers), .key = "nat_resolvers", .type = CONF_LIST, .def = "",
      .help =
          "DNS resolvers, as addresses, that the questions of jobs with network nat are sent on to. Not\n"
          "set: those of /etc/resolv.conf, which may be on this machine's loopback." },
    { AT(sandbox, nat_closed), .key = "nat_closed", .type = CONF_LIST, .def = "",
      .help =
          "Networks that jobs never reach, such as 10.0.0.0/8,2001:db8::/32, beside what is always closed:\n"
          "this machine, other jobs, link-local and multicast addresses, the clouds' metadata services." },
    { AT(sandbox, nat_open), .key = "nat_open", .type = CONF_LIST, .def = "",
      .help =
          "Destinations that jobs may reach although they are closed or this machine's own, such as\n"
          "192.0.2.7:5432 (a job's own egress list still counts). Never the agent's own ports." },
    { AT(sandbox, uid_base), .key = "uid_base", .type = CONF_INT, .def = "1879048192", .min = 65536,
      .max = 4026531840,
      .help = "The first of the user and group ids that sandboxes are mapped to, 65536 per slot." },
    { AT(sandbox, cpus_milli), .key = "cpus", .type = CONF_MILLI, .def = "none", .min = 10,
      .max = 4096000, .zero = "none", .reloadable = true,
      .help = "CPUs that a job may use if it does not say: 0.5 is half of one's time." },
    { AT(sandbox, memory), .key = "memory", .type = CONF_SIZE, .def = "512MiB", .min = MIB(4),
      .max = TIB(64), .reloadable = true, .help = "Memory limit of jobs that do not say." },
    { AT(sandbox, memory_max), .key = "memory_max", .type = CONF_SIZE, .def = "auto", .min = MIB(4),
      .max = TIB(64), .zero = "auto", .reloadable = true,
      .help = "The highest memory limit that a job may ask for. auto: node.memory." },
    { AT(sandbox, pids), .key = "pids", .type = CONF_INT, .def = "256", .min = 4, .max = 1000000,
      .reloadable = true, .help = "Processes and threads of a job that does not say." },
    { AT(sandbox, timeout_ms), .key = "timeout", .type = CONF_DURATION, .def = "1h", .min = 100,
      .max = DAYS(30), .reloadable = true, .help = "The longest run of a job that does not say." },
    { AT(sandbox, timeout_max_ms), .key = "timeout_max", .type = CONF_DURATION, .def = "1d",
      .min = 100, .max = DAYS(30), .reloadable = true,
      .help = "The longest timeout that a job may ask for." },
    { AT(sandbox, grace_ms), .key = "grace", .type = CONF_DURATION, .def = "10s", .max = HOURS(1),
      .reloadable = true, .help = "Time between the stop signal and SIGKILL." },
    { AT(sandbox, disk_bytes), .key = "disk_bytes", .type = CONF_SIZE, .def = "1GiB", .min = MIB(1),
      .max = TIB(16), .reloadable = true,
      .help = "What a run may write to its file system; also the most that a job may ask for." },
    { AT(sandbox, disk_inodes), .key = "disk_inodes", .type = CONF_INT, .def = "100000", .min = 64,
      .max = 100000000, .reloadable = true, .help = "Files and directories that a run may make." },
    { AT(sandbox, output_bytes), .key = "output_bytes", .type = CONF_SIZE, .def = "1GiB",
      .min = KIB(4), .max = TIB(1), .reloadable = true,
      .help =
          "stdout of a run. Past it the run fails with reason 'output', unless its job truncates." },
    { AT(sandbox, log_bytes), .key = "log_bytes", .type = CONF_SIZE, .def = "16MiB", .min = KIB(4),
      .max = GIB(16), .reloadable = true,
      .help = "stderr of a run; of more the first and the last half are kept." },
    { AT(sandbox, shm_bytes), .key = "shm_bytes", .type = CONF_SIZE, .def = "64MiB", .min = KIB(64),
      .max = TIB(1), .reloadable = true, .help = "Size of /dev/shm." },
    { AT(sandbox, nofile), .key = "nofile", .type = CONF_INT, .def = "65536", .min = 16,
      .max = 1048576, .reloadable = true, .help = "Open files per process." },
    { AT(sandbox, core_bytes), .key = "core_bytes", .type = CONF_SIZE, .def = "0", .max = TIB(1),
      .reloadable = true, .help = "Size of core dumps, written to the run's own file system." },
    { AT(sandbox, prepared), .key = "prepared", .type = CONF_INT, .def = "64", .min = 1,
      .max = 4096, .zero = "none",
      .help = "The most sandboxes that wait ready for the next run of a job in use, one per slot.\n"
              "none: each is built when its run comes." },

    /* --- telemetry --- */
    { AT(telemetry, interval_ms), .key = "interval", .type = CONF_DURATION, .def = "1s", .min = 100,
      .max = HOURS(1), .reloadable = true, .help = "Time between two samples of a run." },
    { AT(telemetry, resctrl_path), .key = "resctrl_path", .type = CONF_PATH,
      .def = SETTINGS_RESCTRL_PATH,
      .help =
          "Where resctrl is mounted (Intel RDT: cache use and memory bandwidth of runs). Another\n"
          "path than this is taken for resctrl without a look at the kind of file system." },
    { AT(telemetry, cgroup_path), .key = "cgroup_path", .type = CONF_PATH, .def = "",
      .help = "The control group that runs live under. Not set: the agent's own." },

    /* --- mqtt --- */
    { AT(mqtt, url), .key = "url", .type = CONF_TEXT, .def = "",
      .help = "mqtt://host:port or mqtts://host:port. Not set: no sensors." },
    { AT(mqtt, username), .key = "username", .type = CONF_TEXT, .def = "",
      .help = "Account at the broker." },
    { AT(mqtt, password_file), .key = "password_file", .type = CONF_PATH, .def = "",
      .help = "File whose first line is the account's password." },

    /* --- callbacks --- */
    { AT(callbacks, allow_private), .key = "allow_private", .type = CONF_BOOL, .def = "no",
      .reloadable = true,
      .help =
          "May call-backs go to this machine, to private and to link-local addresses? Whoever may\n"
          "submit a run can then make this node send requests into its own network." },
    { AT(callbacks, ca_file), .key = "ca_file", .type = CONF_PATH, .def = "",
      .help = "Who signed the certificates of https receivers (PEM). Not set: the system's." },
    { AT(callbacks, timeout_ms), .key = "timeout", .type = CONF_DURATION, .def = "20s", .min = 100,
      .max = UINT64_C(300000), .reloadable = true, .help = "A receiver has this long to answer." },

    /* --- log --- */
    { AT(log, level), .key = "level", .type = CONF_CHOICE, .def = "info", .choices = levels,
      .reloadable = true, .help = "How much is logged." },
    { AT(log, format), .key = "format", .type = CONF_CHOICE, .def = "text", .choices = formats,
      .help = "Lines for people, or one JSON object per line." },
};

_Static_assert(ARRAY_LEN(keys) <= CONF_KEYS_MAX, "struct conf_seen");

const struct conf_table settings_table = {
    .about =
        "agent.conf - configuration of the agent.\n"
        "\n"
        "Every key with its default. Uncomment a line to change it; every key can also be given as\n"
        "--section.key=value. Unknown keys and bad values are errors. Sizes: k, M, G, T and KiB to TiB\n"
        "count in 1024s, kB to TB in 1000s.",
    .sections = sections,
    .sections_len = ARRAY_LEN(sections),
    .keys = keys,
    .keys_len = ARRAY_LEN(keys),
    .object_size = sizeof(struct settings),
};
