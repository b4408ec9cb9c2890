/* Shells on real sockets of loopback, on one loop: joining, messages by both ways, metadata,
 * leaving, and closing in the middle of everything. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/gossip/sys_gossip.h"
#include "agent/gossip/uv_gossip.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { WAIT_MS = 30000 };

struct peer {
    struct gossip_shell *shell;
    char name[8];
    char at[GOSSIP_ADDR_TEXT_CAP];
    unsigned changes[GOSSIP_REAPED + 1];
    unsigned messages;
    size_t last_len;
    uint8_t last_channel;
    char from[16];
    bool left, closed;
};

static uv_loop_t uv;
static struct loop loop;
static char dir[64];

static void on_member(void *arg, enum gossip_change change, const struct gossip_view *m)
{
    struct peer *p = arg;
    assert_false(m->self);
    p->changes[change]++;
}

static void on_message(void *arg, struct str from, uint8_t channel, struct str bytes)
{
    struct peer *p = arg;
    p->messages++;
    p->last_len = bytes.n;
    p->last_channel = channel;
    assert_int_equal(str_copy(p->from, sizeof(p->from), from), 0);
    for (size_t i = 0; i < bytes.n; i += 1009) {
        assert_int_equal((uint8_t)bytes.p[i], (uint8_t)i);
    }
}

static void on_left(void *arg)
{
    ((struct peer *)arg)->left = true;
}

static void on_closed(void *arg)
{
    ((struct peer *)arg)->closed = true;
}

static void start(struct peer *p, const char *name, const struct peer *seed, const char *keys)
{
    struct settings s;
    struct err e;
    struct gossip_addr at;
    struct gossip_options opt = { .loop = &loop,
                                  .name = p->name,
                                  .settings = &s.gossip,
                                  .meta = { .http_port = 7575 },
                                  .on_member = on_member,
                                  .on_message = on_message,
                                  .arg = p };

    *p = (struct peer){ .closed = false };
    (void)snprintf(p->name, sizeof(p->name), "%s", name);
    settings_defaults(&s);
    if (seed != NULL) {
        (void)snprintf(s.gossip.join, sizeof(s.gossip.join), "%s", seed->at);
    }
    opt.keys = str_of(keys);
    assert_int_equal(gossip_sock_listen("127.0.0.1:0", &opt.udp_fd, &opt.tcp_fd, &e), 0);
    assert_int_equal(gossip_sock_bound(opt.udp_fd, &at, NULL), 0);
    (void)gossip_addr_format(&at, p->at);
    assert_int_equal(gossip_shell_start(&opt, &p->shell, &e), 0);
}

/* Runs the loop until the condition holds. */
#define UNTIL(cond) \
    do { \
        uint64_t until_ = sys_mono_ms() + WAIT_MS; \
        while (!(cond)) { \
            assert_true(sys_mono_ms() < until_); \
            (void)uv_run(&uv, UV_RUN_NOWAIT); \
            sys_sleep_ms(1); \
        } \
    } while (0)

static void finish(struct peer *p)
{
    gossip_shell_close(p->shell, on_closed, p);
    UNTIL(p->closed);
}

static uint32_t alive(const struct peer *p)
{
    return gossip_count(gossip_shell_core(p->shell), GOSSIP_ALIVE);
}

static void conversation(void **state)
{
    struct peer a, b;
    size_t big = 300000;
    char *bytes = mem_alloc(big);
    (void)state;
    for (size_t i = 0; i < big; i++) {
        bytes[i] = (char)i;
    }
    start(&a, "a", NULL, NULL);
    assert_int_equal(gossip_shell_send(a.shell, STR("b"), 1, bytes, 10, false), -ENOENT);
    start(&b, "b", &a, NULL);
    UNTIL(a.changes[GOSSIP_JOINED] == 1 && b.changes[GOSSIP_JOINED] == 1);
    /* a datagram; a stream because it is large; a stream because it must arrive */
    assert_int_equal(gossip_shell_send(a.shell, STR("b"), 1, bytes, 100, false), 0);
    UNTIL(b.messages == 1);
    assert_int_equal(b.last_len, 100);
    assert_int_equal(b.last_channel, 1);
    assert_string_equal(b.from, "a");
    assert_int_equal(gossip_shell_send(b.shell, STR("a"), 7, bytes, big, false), 0);
    UNTIL(a.messages == 1);
    assert_int_equal(a.last_len, big);
    assert_int_equal(a.last_channel, 7);
    assert_int_equal(gossip_shell_send(a.shell, STR("b"), 1, bytes, 0, true), 0);
    UNTIL(b.messages == 2);
    assert_int_equal(b.last_len, 0);
    assert_int_equal(gossip_shell_send(a.shell, STR("b"), 1, bytes, GOSSIP_USER_MAX + 1, true),
                     -EMSGSIZE);
    const struct gossip_meta m = { .http_port = 1, .class_hash = 5 };
    gossip_shell_set_meta(a.shell, &m);
    UNTIL(b.changes[GOSSIP_UPDATED] == 1);
    gossip_shell_leave(a.shell, on_left, &a);
    assert_false(a.left); /* never from inside the call */
    UNTIL(a.left && b.changes[GOSSIP_WENT] == 1);
    finish(&a);
    finish(&b);
    mem_free(bytes);
}

static void keys(void **state)
{
    struct peer a, b, c;
    static const char keys[] = "AAECAwQFBgcICQoLDA0ODw==\n";
    static const char longer[] = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX\nAAECAwQFBgcICQoLDA0ODw==\n";
    struct err e;
    (void)state;
    start(&a, "a", NULL, keys);
    start(&b, "b", &a, keys);
    start(&c, "c", &a, NULL);
    UNTIL(alive(&a) == 2 && alive(&b) == 2);
    assert_int_equal(alive(&c), 1);
    assert_int_equal(gossip_shell_set_keys(a.shell, STR("nonsense\n"), &e), -EINVAL);
    assert_int_equal(gossip_shell_set_keys(b.shell, str_of(longer), &e), 0);
    assert_int_equal(gossip_shell_set_keys(a.shell, str_of(longer), &e), 0);
    assert_int_equal(gossip_shell_send(a.shell, STR("b"), 1, "", 1, true), 0);
    UNTIL(b.messages == 1);
    AUTO_BUF struct buf text = BUF_INIT(1 << 20);
    gossip_shell_metrics(a.shell, &text);
    assert_non_null(strstr(buf_cstr(&text), "agent_gossip_members{state=\"alive\"} 2\n"));
    buf_reset(&text);
    struct json_w w;
    json_w_init(&w, &text, false);
    gossip_shell_json(a.shell, &w);
    assert_non_null(strstr(buf_cstr(&text), "{\"name\":\"a\",\"address\":\"127.0.0.1:"));
    finish(&a);
    finish(&b);
    finish(&c);
}

/* Closed while streams are open, names are looked up and words wait. */
static void closing_early(void **state)
{
    struct peer p[6];
    (void)state;
    for (unsigned round = 0; round < 12; round++) {
        char name[8];
        for (unsigned i = 0; i < 6; i++) {
            (void)snprintf(name, sizeof(name), "n%u", i);
            start(&p[i], name, i > 0 ? &p[0] : NULL, NULL);
        }
        for (unsigned i = 0; i < round * 3; i++) {
            (void)uv_run(&uv, UV_RUN_NOWAIT);
        }
        for (unsigned i = 0; i < 6; i++) {
            (void)gossip_shell_send(p[i].shell, STR("n0"), 1, "x", 1, true);
            gossip_shell_close(p[i].shell, on_closed, &p[i]);
        }
        for (unsigned i = 0; i < 6; i++) {
            UNTIL(p[i].closed);
        }
    }
}

static int setup(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "/tmp/test-gossip-shell-XXXXXX");
    return mkdtemp(dir) == NULL || uv_loop_init(&uv) != 0 || loop_init(&loop, &uv) != 0;
}

static int teardown(void **state)
{
    (void)state;
    loop_close(&loop);
    for (unsigned i = 0; i < 10; i++) {
        (void)uv_run(&uv, UV_RUN_NOWAIT); /* a failed test may have left handles: no waiting */
    }
    assert_int_equal(uv_loop_close(&uv), 0);
    return sys_remove_tree(AT_FDCWD, dir, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conversation),
        cmocka_unit_test(keys),
        cmocka_unit_test(closing_early),
    };
    return cmocka_run_group_tests_name("gossip_shell", tests, setup, teardown);
}
