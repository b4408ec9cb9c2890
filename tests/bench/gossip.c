/*
 * Membership on real sockets: N nodes of ours in one process, on loopback, beside what memberlist
 * does in another (tests/bench/memberlist/main.go). One JSON object per measurement.
 *
 *   gossip join N ROUNDS | crash N ROUNDS | update N ROUNDS | idle N SECONDS
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "agent/gossip/sys_gossip.h"
#include "agent/gossip/uv_gossip.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/sys/sys.h"
#include "common/sys/sys_log.h"

enum { NODES_MAX = 256, LIMIT_MS = 100000 };

struct bench {
    uv_loop_t uv;
    struct loop loop;
    struct gossip_shell *nodes[NODES_MAX];
    unsigned n;
    unsigned closed;
    char seed[64];
};

static struct bench b;

static uint64_t now_us(void)
{
    return sys_mono_us();
}

/* Runs the loop for a while. */
static void run_some(void)
{
    (void)uv_run(&b.uv, UV_RUN_NOWAIT);
    sys_sleep_ms(1);
}

static void start(unsigned i)
{
    struct settings s;
    char name[16];
    struct err e;
    struct gossip_addr at;
    struct gossip_options opt = {
        .loop = &b.loop, .name = name, .settings = &s.gossip, .meta = { .http_port = 7575 }
    };

    settings_defaults(&s);
    (void)snprintf(name, sizeof(name), "n%u", i);
    (void)snprintf(s.gossip.listen, sizeof(s.gossip.listen), "127.0.0.1:0");
    if (i > 0) {
        (void)snprintf(s.gossip.join, sizeof(s.gossip.join), "%s", b.seed);
    }
    INSIST(gossip_sock_listen(s.gossip.listen, &opt.udp_fd, &opt.tcp_fd, &e) == 0);
    if (i == 0) {
        INSIST(gossip_sock_bound(opt.udp_fd, &at, NULL) == 0);
        (void)gossip_addr_format(&at, b.seed);
    }
    INSIST(gossip_shell_start(&opt, &b.nodes[i], &e) == 0);
}

static void closed(void *arg)
{
    (void)arg;
    b.closed++;
}

static void stop(unsigned i)
{
    if (b.nodes[i] != NULL) {
        unsigned want = b.closed + 1;
        gossip_shell_close(b.nodes[i], closed, NULL);
        b.nodes[i] = NULL;
        while (b.closed < want) {
            run_some();
        }
    }
}

static void stop_all(void)
{
    for (unsigned i = 0; i < b.n; i++) {
        stop(i);
    }
}

static bool whole(void)
{
    for (unsigned i = 0; i < b.n; i++) {
        if (b.nodes[i] != NULL &&
            gossip_count(gossip_shell_core(b.nodes[i]), GOSSIP_ALIVE) != b.n) {
            return false;
        }
    }
    return true;
}

static unsigned know(unsigned victim, bool (*fits)(const struct gossip_view *v, uint64_t arg),
                     uint64_t arg)
{
    char name[16];
    unsigned n = 0;
    struct gossip_view v;

    (void)snprintf(name, sizeof(name), "n%u", victim);
    for (unsigned i = 0; i < b.n; i++) {
        n += b.nodes[i] != NULL && i != victim &&
             gossip_find(gossip_shell_core(b.nodes[i]), str_of(name), &v) && fits(&v, arg);
    }
    return n;
}

static bool is_dead(const struct gossip_view *v, uint64_t arg)
{
    (void)arg;
    return v->state == GOSSIP_DEAD;
}

static bool has_class(const struct gossip_view *v, uint64_t arg)
{
    struct gossip_meta m;
    return gossip_meta_read(v->meta, &m) && m.class_hash == arg;
}

static double form(unsigned n)
{
    uint64_t begin = now_us();

    b.n = n;
    for (unsigned i = 0; i < n; i++) {
        start(i);
    }
    while (!whole() && now_us() - begin < LIMIT_MS * 1000ULL) {
        run_some();
    }
    return (double)(now_us() - begin) / 1e6;
}

static void rest(double seconds)
{
    uint64_t until = now_us() + (uint64_t)(seconds * 1e6);
    while (now_us() < until) {
        run_some();
    }
}

static void join(unsigned n, unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++) {
        (void)printf("{\"what\":\"join\",\"nodes\":%u,\"seconds\":%.3f}\n", n, form(n));
        (void)fflush(stdout);
        stop_all();
    }
}

static void crash(unsigned n, unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++) {
        (void)form(n);
        rest(3);
        unsigned victim = 1 + i % (n - 1);
        uint64_t begin = now_us();
        double first = 0;
        double all = 0;
        stop(victim);
        while (all == 0 && now_us() - begin < LIMIT_MS * 1000ULL) {
            run_some();
            unsigned k = know(victim, is_dead, 0);
            first = first == 0 && k > 0 ? (double)(now_us() - begin) / 1e6 : first;
            all = k == n - 1 ? (double)(now_us() - begin) / 1e6 : 0;
        }
        (void)printf("{\"what\":\"crash\",\"nodes\":%u,\"first\":%.3f,\"all\":%.3f}\n", n, first,
                     all);
        (void)fflush(stdout);
        stop_all();
    }
}

static void update(unsigned n, unsigned rounds)
{
    (void)form(n);
    rest(5);
    for (unsigned i = 0; i < rounds; i++) {
        const struct gossip_meta m = { .http_port = 7575, .class_hash = i + 1 };
        uint64_t begin = now_us();
        gossip_shell_set_meta(b.nodes[i % n], &m);
        while (know(i % n, has_class, i + 1) < n - 1 && now_us() - begin < LIMIT_MS * 1000ULL) {
            run_some();
        }
        (void)printf("{\"what\":\"update\",\"nodes\":%u,\"seconds\":%.3f}\n", n,
                     (double)(now_us() - begin) / 1e6);
        (void)fflush(stdout);
        rest(1);
    }
    stop_all();
}

static double cpu(void)
{
    struct rusage u;
    (void)getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static double resident(void)
{
    char text[128];
    unsigned long long total = 0;
    unsigned long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f != NULL && fgets(text, sizeof(text), f) != NULL) {
        char *end;
        total = strtoull(text, &end, 10);
        pages = strtoull(end, NULL, 10);
    }
    (void)total;
    (void)fclose(f);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static uint64_t counted(enum gossip_counter c)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < b.n; i++) {
        sum += gossip_counter(gossip_shell_core(b.nodes[i]), c);
    }
    return sum;
}

static void idle(unsigned n, unsigned seconds)
{
    double before = resident();
    (void)form(n);
    rest(15);
    double grown = resident() - before;
    uint64_t packets = counted(GOSSIP_C_PACKETS_OUT);
    uint64_t bytes = counted(GOSSIP_C_BYTES_OUT);
    double used = cpu();
    /* The loop sleeps by itself here: what is used is gossip's. */
    uint64_t until = now_us() + seconds * 1000000ULL;
    while (now_us() < until) {
        (void)uv_run(&b.uv, UV_RUN_ONCE);
    }
    used = cpu() - used;
    double each = (double)n * seconds;
    (void)printf("{\"what\":\"idle\",\"nodes\":%u,\"packets\":%.3f,\"bytes\":%.2f,\"cpu\":%.5f,"
                 "\"rss\":%.0f}\n",
                 n, (double)(counted(GOSSIP_C_PACKETS_OUT) - packets) / each,
                 (double)(counted(GOSSIP_C_BYTES_OUT) - bytes) / each, used / each * 100,
                 grown / n);
    stop_all();
}

int main(int argc, char **argv)
{
    uint64_t n = 0;
    uint64_t rounds = 0;

    if (argc != 4 || str_u64_in(str_of(argv[2]), 2, NODES_MAX, &n) != 0 ||
        str_u64_in(str_of(argv[3]), 1, 1000, &rounds) != 0) {
        (void)fprintf(stderr, "usage: gossip join|crash|update|idle N ROUNDS\n");
        return 2;
    }
    sys_log_init(LOG_ERROR, LOG_TEXT, "bench");
    INSIST(uv_loop_init(&b.uv) == 0 && loop_init(&b.loop, &b.uv) == 0);
    if (strcmp(argv[1], "join") == 0) {
        join((unsigned)n, (unsigned)rounds);
    } else if (strcmp(argv[1], "crash") == 0) {
        crash((unsigned)n, (unsigned)rounds);
    } else if (strcmp(argv[1], "update") == 0) {
        update((unsigned)n, (unsigned)rounds);
    } else if (strcmp(argv[1], "idle") == 0) {
        idle((unsigned)n, (unsigned)rounds);
    } else {
        return 2;
    }
    return 0;
}
