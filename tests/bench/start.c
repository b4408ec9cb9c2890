/*
 * start - how long a sandbox takes from asking to exit seen, ours beside others, in one run.
 *
 *   bench-start [--rounds N] [--batch N] [--inflight N] [--noop FILE] [--json FILE] [--only WORD]
 *
 * Rounds are interleaved: each method starts `batch` sandboxes one after the other (and, with
 * --inflight, N at a time), then the next method has its turn; the median over everything is
 * printed, with the ratio to plain vfork + exec + wait. Needs root. bwrap and runc take part when
 * they are installed.
 *
 * Ours is the product's launcher with this same program as its agent process: it takes orders over
 * a socket that it inherits as the "listening" descriptor. There are two of them: one keeps
 * sandboxes ready, one builds each when it is asked for. --only takes the methods whose name has
 * WORD, for profiles.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/sandbox/sandbox.h"
#include "agent/sandbox/uv_sandbox.h"
#include "common/insist.h"
#include "common/loop/loop.h"
#include "common/mem.h"
#include "common/sys/sys.h"
#include "common/sys/sys_settings.h"
#include "tests/bench/naive.h"

enum { BATCH_MAX = 4096, METHODS = 6, ID_BASE_NAIVE = 1800000000, BURST_PAUSE_MS = 60 };

/* One order to the agent side, and the head of its answer. */
struct order {
    uint32_t count;
    uint32_t inflight;
    uint32_t gap_us; /* pause between starts; 0: back to back */
};

struct answer {
    uint32_t count; /* that many uint32_t of µs follow; 0 means it failed */
    uint32_t wall_us;
};

/* ------------------------------------------------------------------ the agent side */

struct client {
    struct loop loop;
    uv_loop_t uv;
    struct sandbox_client *client;
    uv_poll_t orders;
    struct loop_owner owner;
    struct loop_timer gap;
    struct order order;
    uint32_t started, ended;
    uint64_t began_us;
    uint64_t begun_us[BATCH_MAX];
    uint32_t took_us[BATCH_MAX];
    struct ulid_gen ids;
    struct digest layer;
    bool ready;
};

static void start_some(struct client *c);

static struct ulid id_of(uint32_t index)
{
    /* The last four bytes carry the index. */
    struct ulid id = { .b = { 1, 2, 3, 4, 5, 6 } };
    uint64_t salt = sys_random_u64();

    memcpy(id.b + 6, &salt, 6);
    id.b[12] = (uint8_t)(index >> 24);
    id.b[13] = (uint8_t)(index >> 16);
    id.b[14] = (uint8_t)(index >> 8);
    id.b[15] = (uint8_t)index;
    return id;
}

static uint32_t index_of(struct ulid id)
{
    return (uint32_t)id.b[12] << 24 | (uint32_t)id.b[13] << 16 | (uint32_t)id.b[14] << 8 | id.b[15];
}

static void give_up(const char *what, const char *why)
{
    fprintf(stderr, "bench-start: %s: %s\n", what, why);
    _exit(1);
}

static void run_one(struct client *c)
{
    static const char *const argv[] = { "/noop" };
    struct err e = { 0 };
    struct settings_sandbox defaults;
    struct settings s;
    struct sandbox_spec spec = {
        .run = id_of(c->started),
        .attempt = 1,
        .argv = argv,
        .argv_len = 1,
        .workdir = "/",
        .user = "",
        .hostname = "bench",
        .stop_signal = SIGTERM,
        .layers = &c->layer,
        .layers_len = 1,
    };

    settings_defaults(&s);
    defaults = s.sandbox;
    sandbox_limits_default(&defaults, &spec.limits);
    c->begun_us[c->started] = sys_mono_us();
    c->started++;
    if (sandbox_client_run(c->client, &spec, STR(""), &e) != 0) {
        give_up("run", err_text(&e));
    }
}

static void start_some(struct client *c)
{
    while (c->started < c->order.count && c->started - c->ended < c->order.inflight) {
        run_one(c);
        if (c->order.gap_us != 0) {
            break;
        }
    }
}

static void gap_over(struct loop_timer *t)
{
    start_some(CONTAINER_OF(t, struct client, gap));
}

static void on_order(uv_poll_t *h, int status, int events)
{
    struct client *c = h->data;

    (void)events;
    if (status < 0 ||
        sys_read(SANDBOX_LISTEN_FD, &c->order, sizeof c->order) != (ssize_t)sizeof c->order) {
        _exit(0);
    }
    REQUIRE(c->order.count <= BATCH_MAX);
    c->started = 0;
    c->ended = 0;
    c->began_us = sys_mono_us();
    start_some(c);
}

static void on_hello(void *arg, const struct sandbox_hello *h)
{
    struct client *c = arg;

    (void)h;
    (void)sandbox_client_adopt(c->client);
}

static void on_adopted(void *arg)
{
    struct client *c = arg;

    if (!c->ready) {
        c->ready = true;
        (void)sandbox_client_ready(c->client, "bench");
        INSIST(uv_poll_start(&c->orders, UV_READABLE, on_order) == 0);
    }
}

static void on_started(void *arg, struct sandbox_started *s)
{
    (void)arg;
    telemetry_fds_close(&s->fds);
}

static void on_ended(void *arg, const struct sandbox_ended *s)
{
    struct client *c = arg;
    uint32_t i = index_of(s->run);

    if (s->adopted) {
        return;
    }
    if (s->result.reason != SANDBOX_EXIT || s->result.exit_code != 0 || i >= c->order.count) {
        give_up("no-op ended badly", s->result.text);
    }
    c->took_us[i] = (uint32_t)(sys_mono_us() - c->begun_us[i]);
    c->ended++;
    (void)sandbox_client_remove_run(c->client, s->run, s->attempt);
    if (c->ended == c->order.count) {
        struct answer a = { .count = c->ended, .wall_us = (uint32_t)(sys_mono_us() - c->began_us) };
        if (sys_write_full(SANDBOX_LISTEN_FD, &a, sizeof a) != 0 ||
            sys_write_full(SANDBOX_LISTEN_FD, c->took_us, a.count * sizeof c->took_us[0]) != 0) {
            _exit(1);
        }
    } else if (c->order.gap_us != 0) {
        loop_timer_start(&c->gap, c->order.gap_us / 1000, 0);
    } else {
        start_some(c);
    }
}

static void on_failed(void *arg, struct ulid run, uint32_t attempt, int rc, const char *text)
{
    (void)arg;
    (void)run;
    (void)attempt;
    (void)rc;
    give_up("launcher refused", text);
}

static void on_removed(void *arg, struct ulid run, uint32_t attempt, int rc, const char *text)
{
    (void)arg;
    (void)run;
    (void)attempt;
    (void)rc;
    (void)text;
}

static void on_layer(void *arg, const struct digest *d, int rc, const char *text)
{
    (void)arg;
    (void)d;
    (void)rc;
    (void)text;
}

static void on_unpacked(void *arg, const struct digest *d, int rc, const char *text, uint64_t bytes,
                        uint64_t entries, int index_fd)
{
    fd_close(index_fd);
    (void)bytes;
    (void)entries;
    on_layer(arg, d, rc, text);
}

static void on_lost(void *arg, const char *why)
{
    (void)arg;
    (void)why;
    _exit(0);
}

static void never_closed(struct loop_owner *o)
{
    (void)o;
}

static int agent_side(void)
{
    static const struct sandbox_client_events events = {
        .hello = on_hello,
        .started = on_started,
        .ended = on_ended,
        .failed = on_failed,
        .unpacked = on_unpacked,
        .run_removed = on_removed,
        .layer_removed = on_layer,
        .adopted = on_adopted,
        .lost = on_lost,
    };
    struct client *c = mem_zalloc(sizeof *c);
    struct err e = { 0 };

    INSIST(c != NULL && uv_loop_init(&c->uv) == 0 && loop_init(&c->loop, &c->uv) == 0);
    INSIST(digest_of(DIGEST_SHA256, "bench", 5, &c->layer) == 0);
    loop_owner_init(&c->owner, &c->loop, never_closed);
    loop_timer_init(&c->gap, &c->owner, gap_over);
    c->orders.data = c;
    INSIST(uv_poll_init(&c->uv, &c->orders, SANDBOX_LISTEN_FD) == 0);
    if (sandbox_client_start(&c->loop, SANDBOX_AGENT_FD, &events, c, &c->client, &e) != 0) {
        give_up("client", err_text(&e));
    }
    return uv_run(&c->uv, UV_RUN_DEFAULT);
}

/* ------------------------------------------------------------------ the bench side */

enum method { VFORK, PREPARED, COLD, NAIVE, BWRAP, RUNC };
static const char *const method_names[METHODS] = {
    "vfork + exec + wait", "agent, prepared", "agent, cold", "naive", "bwrap", "runc"
};

static const char *const dirs[METHODS] = { [PREPARED] = "prepared", [COLD] = "cold" };

struct series {
    uint32_t *us;
    size_t n;
    double rate; /* per second with `inflight` at a time; 0: not measured */
};

struct bench {
    char dir[64];
    char noop[300];
    char lower[300];
    int sock[METHODS]; /* PREPARED, COLD: the order socket of that launcher's agent side */
    pid_t launcher[METHODS];
    struct naive naive;
    bool has[METHODS];
    struct series series[METHODS];
    struct series paced[METHODS]; /* one start every 40 ms */
    unsigned rounds, batch, inflight;
};

static int exec_wait(char *const argv[])
{
    extern char **environ;
    int status;
    pid_t pid = vfork();

    if (pid == 0) {
        execve(argv[0], argv, environ);
        _exit(127);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* execve() takes its arguments without const for history's sake; it does not change them. */
static char *word(const char *s)
{
    return (char *)(uintptr_t)s;
}

static int run_bwrap(const struct bench *b)
{
    char *argv[] = { word("/usr/bin/bwrap"),
                     word("--unshare-all"),
                     word("--die-with-parent"),
                     word("--bind"),
                     word(b->lower),
                     word("/"),
                     word("--proc"),
                     word("/proc"),
                     word("--dev"),
                     word("/dev"),
                     word("--tmpfs"),
                     word("/tmp"),
                     word("--"),
                     word("/noop"),
                     NULL };

    return exec_wait(argv);
}

static int run_runc(const struct bench *b)
{
    static unsigned serial;
    char bundle[100];
    char root[100];
    char name[60];
    char *argv[] = { word("/usr/sbin/runc"), word("--root"), root, word("run"),
                     word("--bundle"),       bundle,         name, NULL };

    snprintf(bundle, sizeof bundle, "%s/bundle", b->dir);
    snprintf(root, sizeof root, "%s/runc", b->dir);
    snprintf(name, sizeof name, "agent-bench-%d-%u", (int)getpid(), serial++);
    return exec_wait(argv);
}

static int run_method(struct bench *b, enum method m)
{
    struct err e = { 0 };
    char *argv[] = { b->noop, NULL };

    switch (m) {
    case VFORK:
        return exec_wait(argv);
    case NAIVE:
        return naive_run(&b->naive, &e);
    case BWRAP:
        return run_bwrap(b);
    case RUNC:
        return run_runc(b);
    case PREPARED:
    case COLD:
        break;
    }
    return -EINVAL;
}

static void add(struct series *s, uint32_t us)
{
    if ((s->n & (s->n - 1)) == 0) {
        s->us = mem_realloc(s->us, (s->n == 0 ? 1 : s->n * 2) * sizeof s->us[0]);
        INSIST(s->us != NULL);
    }
    s->us[s->n++] = us;
}

static bool is_ours(enum method m)
{
    return m == PREPARED || m == COLD;
}

static bool ours(const struct bench *b, enum method m, struct order order, struct series *s,
                 uint32_t *wall_us)
{
    struct answer a;
    uint32_t us[BATCH_MAX];

    if (sys_write_full(b->sock[m], &order, sizeof order) != 0 ||
        sys_read_full(b->sock[m], &a, sizeof a) != (ssize_t)sizeof a || a.count != order.count ||
        sys_read_full(b->sock[m], us, a.count * sizeof us[0]) !=
            (ssize_t)(a.count * sizeof us[0])) {
        return false;
    }
    for (uint32_t i = 0; s != NULL && i < a.count; i++) {
        add(s, us[i]);
    }
    *wall_us = a.wall_us;
    return true;
}

static void round_of(struct bench *b, enum method m, unsigned gap_us, struct series *s,
                     unsigned count)
{
    uint32_t wall_us;

    if (!b->has[m]) {
        return;
    }
    /* What is prepared is there for a burst, and then made again: without a pause this would
     * measure how fast they are made (which "at once" does). */
    unsigned burst = m == PREPARED && gap_us == 0 ? b->inflight : count;
    for (unsigned i = 0; is_ours(m) && i < count && b->has[m]; i += burst) {
        struct order o = { .count = count - i < burst ? count - i : burst,
                           .inflight = 1,
                           .gap_us = gap_us };
        b->has[m] = ours(b, m, o, s, &wall_us);
        if (m == PREPARED) {
            sys_sleep_ms(BURST_PAUSE_MS);
        }
    }
    if (is_ours(m)) {
        return;
    }
    for (unsigned i = 0; i < count && b->has[m]; i++) {
        uint64_t t = sys_mono_us();
        int rc = run_method(b, m);
        if (rc != 0) {
            fprintf(stderr, "bench-start: %s gave %d: left out\n", method_names[m], rc);
            b->has[m] = false;
            return;
        }
        add(s, (uint32_t)(sys_mono_us() - t));
        if (gap_us != 0) {
            sys_sleep_ms(gap_us / 1000);
        }
    }
}

/* `inflight` processes of this program, each starting its share one after the other. */
static double rate_of(struct bench *b, enum method m, unsigned count)
{
    uint64_t t = sys_mono_us();
    uint32_t wall_us;

    if (!b->has[m]) {
        return 0;
    }
    if (is_ours(m)) {
        struct order o = { .count = count, .inflight = b->inflight };
        return ours(b, m, o, NULL, &wall_us) && wall_us != 0 ? count * 1e6 / wall_us : 0;
    }
    for (unsigned k = 0; k < b->inflight; k++) {
        pid_t pid = fork();
        if (pid == 0) {
            b->naive.serial = 1000000 * (k + 1) + b->naive.serial;
            b->naive.id_base += 65536 * (k + 1);
            for (unsigned i = 0; i < count / b->inflight; i++) {
                if (run_method(b, m) != 0) {
                    _exit(1);
                }
            }
            _exit(0);
        }
    }
    bool good = true;
    for (unsigned k = 0; k < b->inflight; k++) {
        int status;
        good = wait(&status) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0 && good;
    }
    return good ? count / b->inflight * b->inflight * 1e6 / (double)(sys_mono_us() - t) : 0;
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static double quantile(struct series *s, double q)
{
    if (s->n == 0) {
        return 0;
    }
    qsort(s->us, s->n, sizeof s->us[0], by_value);
    return s->us[(size_t)((double)(s->n - 1) * q)];
}

static void report(struct bench *b, const char *json_path)
{
    FILE *json = json_path != NULL ? fopen(json_path, "we") : NULL;
    double base = quantile(&b->series[VFORK], 0.5);
    double paced_base = quantile(&b->paced[VFORK], 0.5);
    double naive_rate = b->series[NAIVE].rate;

    printf("%-22s %9s %9s %7s   %9s %7s   %10s %8s\n", "start to exit, no-op", "p50 us", "p99 us",
           "ratio", "paced p50", "ratio", "at once /s", "x naive");
    for (size_t m = 0; m < METHODS; m++) {
        struct series *s = &b->series[m];
        if (s->n == 0) {
            printf("%-22s %9s\n", method_names[m], "not here");
            continue;
        }
        double p50 = quantile(s, 0.5);
        double paced = quantile(&b->paced[m], 0.5);
        printf("%-22s %9.0f %9.0f %6.1fx   %9.0f %6.1fx   %10.0f %7.1fx\n", method_names[m], p50,
               quantile(s, 0.99), p50 / base, paced, paced_base > 0 ? paced / paced_base : 0,
               s->rate, naive_rate > 0 ? s->rate / naive_rate : 0);
        if (json != NULL) {
            fprintf(json,
                    "%s{\"method\":\"%s\",\"p50_us\":%.0f,\"p99_us\":%.0f,\"ratio\":%.2f,"
                    "\"paced_p50_us\":%.0f,\"rate\":%.0f,\"inflight\":%u,\"n\":%zu}",
                    m == 0 ? "[" : ",\n ", method_names[m], p50, quantile(s, 0.99), p50 / base,
                    paced, s->rate, b->inflight, s->n);
        }
    }
    if (json != NULL) {
        fputs("]\n", json);
        fclose(json);
    }
}

static void fill_root(const char *dir, const char *noop, unsigned owner)
{
    static const char *const names[] = { "proc", "sys", "dev", "tmp", "etc", "run" };
    char path[400];
    AUTO_BUF struct buf program = BUF_INIT(1 << 20);
    struct err e = { 0 };

    if (sys_mkdirs(AT_FDCWD, dir, 0755, &e) != 0 ||
        sys_read_file(AT_FDCWD, noop, 1 << 20, &program, &e) != 0) {
        give_up("root", err_text(&e));
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        (void)mkdir(path, 0755);
        INSIST(chown(path, owner, owner) == 0);
    }
    snprintf(path, sizeof path, "%s/noop", dir);
    if (sys_write_file_atomic(AT_FDCWD, path, program.data, program.len, 0755, &e) != 0) {
        give_up("root", err_text(&e));
    }
    INSIST(chmod(path, 0755) == 0 && chown(path, owner, owner) == 0 &&
           chown(dir, owner, owner) == 0);
}

static void launcher_start(struct bench *b, enum method m)
{
    int pair[2];

    INSIST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    b->launcher[m] = fork();
    INSIST(b->launcher[m] >= 0);
    if (b->launcher[m] == 0) {
        char data_dir[200];
        char slots[40];
        char prepared[40];
        struct settings s;
        struct err e = { 0 };
        char *agent_argv[] = { word("bench-start"), word("agent-side"), NULL };
        snprintf(data_dir, sizeof data_dir, "--node.data_dir=%s/%s", b->dir, dirs[m]);
        snprintf(slots, sizeof slots, "--node.slots=%u", b->inflight + 2);
        snprintf(prepared, sizeof prepared, "--sandbox.prepared=%s", m == COLD ? "none" : "64");
        const char *const overrides[] = { data_dir, "--node.user=nobody", slots, prepared };
        if (sys_settings_load(NULL, overrides, ARRAY_LEN(overrides), &s, &e) != 0) {
            give_up("settings", err_text(&e));
        }
        sys_log_init(getenv("BENCH_DEBUG") != NULL ? LOG_DEBUG : LOG_ERROR, LOG_TEXT, "launcher");
        struct sandbox_launcher_config config = {
            .settings = &s, .listen_fds = { pair[1] }, .listen_fds_len = 1, .agent_argv = agent_argv
        };
        close(pair[0]);
        _exit(sandbox_launcher_main(&config));
    }
    close(pair[1]);
    b->sock[m] = pair[0];
}

static void launcher_end(const struct bench *b, enum method m)
{
    close(b->sock[m]);
    (void)kill(b->launcher[m], SIGTERM);
    (void)waitpid(b->launcher[m], NULL, 0);
}

/* The image's one layer, unpacked where this launcher looks for it. */
static void fill_layer(const struct bench *b, enum method m, const char *noop, unsigned owner)
{
    struct digest d;
    char hex[DIGEST_TEXT_CAP];
    char path[400];

    INSIST(digest_of(DIGEST_SHA256, "bench", 5, &d) == 0);
    snprintf(path, sizeof path, "%s/%s/layers/%s", b->dir, dirs[m], digest_hex(&d, hex));
    fill_root(path, noop, owner);
    snprintf(path, sizeof path, "%s/%s/layers", b->dir, dirs[m]);
    INSIST(chmod(path, 0700) == 0);
}

static void bench_prepare(struct bench *b, const char *noop)
{
    struct settings defaults;

    snprintf(b->dir, sizeof b->dir, "/var/tmp/agent-bench.XXXXXX");
    INSIST(mkdtemp(b->dir) != NULL && chmod(b->dir, 0755) == 0);
    settings_defaults(&defaults);
    fill_layer(b, PREPARED, noop, (unsigned)defaults.sandbox.uid_base);
    fill_layer(b, COLD, noop, (unsigned)defaults.sandbox.uid_base);
    snprintf(b->lower, sizeof b->lower, "%s/root", b->dir);
    fill_root(b->lower, noop, ID_BASE_NAIVE);
    snprintf(b->noop, sizeof b->noop, "%s/root/noop", b->dir);
    snprintf(b->naive.work, sizeof b->naive.work, "%s/naive", b->dir);
    INSIST(mkdir(b->naive.work, 0755) == 0);
    snprintf(b->naive.lower, sizeof b->naive.lower, "%.200s", b->lower);
    b->naive.id_base = ID_BASE_NAIVE;
    b->naive.path = "/noop";
    b->has[VFORK] = b->has[PREPARED] = b->has[COLD] = b->has[NAIVE] = true;
    b->has[BWRAP] = access("/usr/bin/bwrap", X_OK) == 0;
    b->has[RUNC] = access("/usr/sbin/runc", X_OK) == 0;
    if (b->has[RUNC]) {
        char command[700];
        snprintf(command, sizeof command,
                 "mkdir -p %s/bundle && cd %s/bundle && runc spec && cp -a ../root rootfs && "
                 "chown -R 0:0 rootfs && sed -i 's/\"terminal\": true/\"terminal\": false/; "
                 "s#\"sh\"#\"/noop\"#' config.json",
                 b->dir, b->dir);
        b->has[RUNC] = system(command) == 0;
    }
}

int main(int argc, char **argv)
{
    sandbox_main_hook(argc, argv);
    struct bench *b = mem_zalloc(sizeof *b);
    const char *noop = "build/bench/noop";
    const char *json = NULL;
    const char *only = NULL;
    struct err e = { 0 };

    if (argc > 1 && strcmp(argv[1], "agent-side") == 0) {
        return agent_side();
    }
    INSIST(b != NULL);
    b->rounds = 12;
    b->batch = 20;
    b->inflight = 8;
    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t v = 0;
        (void)str_u64(str_of(argv[i + 1]), &v);
        if (strcmp(argv[i], "--rounds") == 0) {
            b->rounds = (unsigned)v;
        } else if (strcmp(argv[i], "--batch") == 0) {
            b->batch = (unsigned)v;
        } else if (strcmp(argv[i], "--inflight") == 0) {
            b->inflight = (unsigned)v;
        } else if (strcmp(argv[i], "--noop") == 0) {
            noop = argv[i + 1];
        } else if (strcmp(argv[i], "--json") == 0) {
            json = argv[i + 1];
        } else if (strcmp(argv[i], "--only") == 0) {
            only = argv[i + 1];
        } else {
            give_up("unknown option", argv[i]);
        }
    }
    REQUIRE(b->batch > 0 && b->batch <= BATCH_MAX && b->inflight > 0 && b->inflight <= 64);
    bench_prepare(b, noop);
    launcher_start(b, PREPARED);
    launcher_start(b, COLD);
    for (unsigned m = 0; only != NULL && m < METHODS; m++) {
        b->has[m] = b->has[m] && strstr(method_names[m], only) != NULL;
    }
    for (unsigned r = 0; r < b->rounds; r++) {
        for (unsigned m = 0; m < METHODS; m++) {
            round_of(b, m, 0, &b->series[m], m == RUNC ? (b->batch + 3) / 4 : b->batch);
        }
    }
    for (unsigned m = 0; m < METHODS; m++) {
        round_of(b, m, 40000, &b->paced[m], m == RUNC ? 10 : 40);
        b->series[m].rate = rate_of(b, m, b->inflight * (m == RUNC ? 4 : 40));
    }
    report(b, json);
    launcher_end(b, PREPARED);
    launcher_end(b, COLD);
    (void)sys_remove_tree(AT_FDCWD, b->dir, &e);
    return 0;
}
