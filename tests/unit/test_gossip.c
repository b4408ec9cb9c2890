/* The rules of membership, one core against hand-written words; and small clusters with the
 * sanitizers on. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent/gossip/gossip_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "tests/lib/gossip_world.h"
#include "tests/lib/seed.h"

struct fixture {
    struct gossip *g;
    struct gossip_pool *pool;
    struct gossip_effects fx;
    uint64_t now;
    uint8_t meta[GOSSIP_META_OWN_MAX];
    size_t meta_len;
};

static const struct gossip_addr here = { .ip = { 10, 0, 0, 1 }, .len = 4, .port = 7946 };
static const struct gossip_addr there = { .ip = { 10, 0, 0, 2 }, .len = 4, .port = 7946 };
static const struct gossip_addr other = { .ip = { 10, 0, 0, 9 }, .len = 4, .port = 7946 };

static int setup(void **state)
{
    struct fixture *f = test_calloc(1, sizeof(*f));
    const struct gossip_meta m = { .http_port = 7575, .boot = 77 };
    struct gossip_config c = { .name = "me",
                               .addr = here,
                               .vsn = { 1, 5, 2, 0, 0, 0 },
                               .boot = 77,
                               .seed = 1,
                               .now_ms = 1000000,
                               .now_s = 1700000000,
                               .members_max = 20 };
    struct err e;
    gossip_meta_write(&m, f->meta, &f->meta_len);
    c.meta = (struct str){ (const char *)f->meta, f->meta_len };
    gossip_params_for(GOSSIP_LAN, &c.params);
    f->pool = c.pool = gossip_pool_new(1, 2);
    f->now = c.now_ms;
    assert_int_equal(gossip_new(&c, &f->g, &e), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    gossip_free(f->g);
    gossip_pool_free(f->pool);
    test_free(f);
    return 0;
}

static int step(struct fixture *f, struct gossip_event ev)
{
    ev.now_ms = f->now;
    ev.now_s = (int64_t)(1700000000 + f->now / 1000);
    return gossip_step(f->g, &ev, &f->fx);
}

static void tick(struct fixture *f, uint64_t ms)
{
    uint64_t until = f->now + ms;
    while (gossip_deadline_ms(f->g) <= until) {
        uint64_t at = gossip_deadline_ms(f->g);
        f->now = at > f->now ? at : f->now;
        (void)step(f, (struct gossip_event){ .type = GOSSIP_EV_TICK });
    }
    f->now = until;
}

static void say(struct fixture *f, enum gossip_type type, const struct gossip_msg *m,
                const struct gossip_addr *from)
{
    AUTO_BUF struct buf b = BUF_INIT(4096);
    gossip_msg_write(&b, type, m);
    assert_int_equal(step(f, (struct gossip_event){ .type = GOSSIP_EV_PACKET,
                                                    .from = *from,
                                                    .bytes = buf_str(&b) }),
                     0);
}

static struct gossip_msg alive_of(const char *name, uint32_t inc, const struct gossip_addr *a)
{
    struct gossip_msg m = { .node = str_of(name),
                            .incarnation = inc,
                            .port = a->port,
                            .vsn = { 1, 5, 2, 0, 0, 0 },
                            .vsn_len = 6 };
    m.addr.n = a->len;
    memcpy(m.addr.b, a->ip, sizeof(a->ip));
    return m;
}

static void alive(struct fixture *f, const char *name, uint32_t inc, const struct gossip_addr *a)
{
    struct gossip_msg m = alive_of(name, inc, a);
    say(f, GOSSIP_MSG_ALIVE, &m, &other);
}

static void against(struct fixture *f, enum gossip_type type, const char *name, uint32_t inc,
                    const char *from)
{
    const struct gossip_msg m = { .node = str_of(name), .from = str_of(from), .incarnation = inc };
    say(f, type, &m, &other);
}

static enum gossip_state state_of(struct fixture *f, const char *name)
{
    struct gossip_view v;
    assert_true(gossip_find(f->g, str_of(name), &v));
    return v.state;
}

static uint32_t inc_of(struct fixture *f, const char *name)
{
    struct gossip_view v;
    assert_true(gossip_find(f->g, str_of(name), &v));
    return v.incarnation;
}

static const struct gossip_effect *effect(struct fixture *f, enum gossip_effect_type type)
{
    for (size_t i = 0; i < f->fx.len; i++) {
        if (f->fx.v[i].type == type) {
            return &f->fx.v[i];
        }
    }
    return NULL;
}

static void assert_change(struct fixture *f, enum gossip_change change)
{
    const struct gossip_effect *fx = effect(f, GOSSIP_FX_MEMBER);
    assert_non_null(fx);
    assert_int_equal(fx->change, change);
}

/* --- the table of who beats whom --- */

static void precedence(void **state)
{
    struct fixture *f = *state;
    alive(f, "a", 5, &there);
    assert_change(f, GOSSIP_JOINED);
    assert_int_equal(state_of(f, "a"), GOSSIP_ALIVE);
    alive(f, "a", 5, &there);
    assert_null(effect(f, GOSSIP_FX_MEMBER));
    against(f, GOSSIP_MSG_SUSPECT, "a", 4, "x"); /* old */
    assert_int_equal(state_of(f, "a"), GOSSIP_ALIVE);
    against(f, GOSSIP_MSG_SUSPECT, "a", 5, "x");
    assert_change(f, GOSSIP_SUSPECTED);
    alive(f, "a", 5, &there); /* not newer */
    assert_int_equal(state_of(f, "a"), GOSSIP_SUSPECT);
    alive(f, "a", 6, &there);
    assert_change(f, GOSSIP_CLEARED);
    against(f, GOSSIP_MSG_DEAD, "a", 6, "x");
    assert_change(f, GOSSIP_DIED);
    against(f, GOSSIP_MSG_SUSPECT, "a", 7, "x");
    assert_int_equal(state_of(f, "a"), GOSSIP_DEAD);
    alive(f, "a", 6, &there);
    assert_int_equal(state_of(f, "a"), GOSSIP_DEAD);
    alive(f, "a", 7, &there);
    assert_change(f, GOSSIP_JOINED);
    against(f, GOSSIP_MSG_DEAD, "a", 7, "a");
    assert_change(f, GOSSIP_WENT);
    assert_int_equal(state_of(f, "a"), GOSSIP_LEFT);
    against(f, GOSSIP_MSG_DEAD, "nobody", 7, "a");
    assert_int_equal(gossip_counter(f->g, GOSSIP_C_DROP_UNKNOWN), 1);
}

static void refutation(void **state)
{
    struct fixture *f = *state;
    alive(f, "a", 1, &there);
    against(f, GOSSIP_MSG_SUSPECT, "me", 1, "a");
    assert_int_equal(inc_of(f, "me"), 2);
    assert_int_equal(gossip_health(f->g), 1);
    /* it goes out in the same step */
    assert_non_null(effect(f, GOSSIP_FX_PACKET));
    against(f, GOSSIP_MSG_SUSPECT, "me", 1, "a");
    assert_int_equal(inc_of(f, "me"), 2);
    against(f, GOSSIP_MSG_DEAD, "me", 40, "a");
    assert_int_equal(inc_of(f, "me"), 41);
    assert_int_equal(state_of(f, "me"), GOSSIP_ALIVE);
    /* for good silenced: not with us */
    against(f, GOSSIP_MSG_DEAD, "me", UINT32_MAX, "a");
    assert_int_equal(inc_of(f, "me"), 41);
    assert_int_equal(gossip_counter(f->g, GOSSIP_C_DROP_INCARNATION), 1);
}

static void impossible_incarnations(void **state)
{
    struct fixture *f = *state;
    struct gossip_msg m = alive_of("a", UINT32_MAX, &there);
    alive(f, "a", 1, &there);
    say(f, GOSSIP_MSG_ALIVE, &m, &other);
    assert_int_equal(inc_of(f, "a"), 1);
    against(f, GOSSIP_MSG_SUSPECT, "a", UINT32_MAX, "x");
    against(f, GOSSIP_MSG_DEAD, "a", UINT32_MAX - 1, "x");
    assert_int_equal(state_of(f, "a"), GOSSIP_ALIVE);
    assert_int_equal(gossip_counter(f->g, GOSSIP_C_DROP_INCARNATION), 3);
    /* its own word counts */
    m.incarnation = 1U << 21;
    say(f, GOSSIP_MSG_ALIVE, &m, &there);
    assert_int_equal(inc_of(f, "a"), 1U << 21);
    alive(f, "zero", 0, &there);
    struct gossip_view v;
    assert_false(gossip_find(f->g, STR("zero"), &v));
}

static void conflicts(void **state)
{
    struct fixture *f = *state;
    alive(f, "a", 3, &there);
    alive(f, "a", 9, &other);
    const struct gossip_effect *fx = effect(f, GOSSIP_FX_NOTE);
    assert_non_null(fx);
    assert_int_equal(fx->note, GOSSIP_NOTE_CONFLICT);
    assert_int_equal(inc_of(f, "a"), 3);
    alive(f, "me", 1, &other);
    assert_int_equal(gossip_counter(f->g, GOSSIP_C_CONFLICTS), 2);
    /* who is dead may come back elsewhere, whatever its incarnation */
    against(f, GOSSIP_MSG_DEAD, "a", 3, "x");
    alive(f, "a", 1, &other);
    assert_change(f, GOSSIP_JOINED);
    assert_int_equal(inc_of(f, "a"), 1);
}

static void impossible_members(void **state)
{
    struct fixture *f = *state;
    char name[200];
    struct gossip_msg m;
    memset(name, 'n', sizeof(name));
    name[GOSSIP_NAME_MAX + 1] = '\0';
    alive(f, name, 1, &there);
    alive(f, "", 1, &there);
    alive(f, "a b", 1, &there);
    alive(f, "\xff\xfe", 1, &there);
    m = alive_of("a", 1, &there);
    m.addr.n = 0;
    say(f, GOSSIP_MSG_ALIVE, &m, &there);
    m = alive_of("a", 1, &there);
    m.vsn[0] = 0;
    say(f, GOSSIP_MSG_ALIVE, &m, &there);
    m = alive_of("a", 1, &there);
    char meta[GOSSIP_META_MAX + 1] = { 0 };
    m.meta = (struct str){ meta, sizeof(meta) };
    say(f, GOSSIP_MSG_ALIVE, &m, &there);
    assert_int_equal(gossip_counter(f->g, GOSSIP_C_DROP_MALFORMED), 7);
    assert_int_equal(gossip_count(f->g, GOSSIP_ALIVE), 1);
    /* the list is full at members_max */
    for (int i = 0; i < 40; i++) {
        struct gossip_addr a = there;
        a.ip[3] = (uint8_t)(i + 20);
        (void)snprintf(name, sizeof(name), "m%d", i);
        alive(f, name, 1, &a);
    }
    assert_int_equal(gossip_count(f->g, GOSSIP_ALIVE), 20);
    assert_int_equal(gossip_counter(f->g, GOSSIP_C_DROP_FULL), 21);
}

static void suspicion_times(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = { "a", "b", "c", "d", "e" };
    for (unsigned i = 0; i < 5; i++) {
        struct gossip_addr a = there;
        a.ip[3] = (uint8_t)(20 + i);
        alive(f, names[i], 1, &a);
    }
    /* no confirmation: six times four seconds; two: four seconds */
    against(f, GOSSIP_MSG_SUSPECT, "a", 1, "b");
    uint64_t start = f->now;
    struct heap_node *n = heap_min(&f->g->suspicions);
    assert_int_equal(n->key - start, 24000);
    against(f, GOSSIP_MSG_SUSPECT, "a", 1, "b");
    assert_int_equal(n->key - start, 24000);
    against(f, GOSSIP_MSG_SUSPECT, "a", 1, "made-up");
    assert_int_equal(n->key - start, 24000);
    against(f, GOSSIP_MSG_SUSPECT, "a", 1, "c");
    assert_in_range(n->key - start, 11300, 11500);
    against(f, GOSSIP_MSG_SUSPECT, "a", 1, "d");
    assert_int_equal(n->key - start, 4000);
    /* what we found ourselves makes it two */
    gossip_accuse(f->g, gossip_slot(f->g, STR("a")), GOSSIP_TCP_REFUSED);
    assert_int_equal(n->key - start, f->g->p.suspicion_fast_ms);
    struct gossip_addr a_is_at = there;
    a_is_at.ip[3] = 20;
    alive(f, "a", 2, &a_is_at);
    assert_null(heap_min(&f->g->suspicions));
}

static void logarithms(void **state)
{
    (void)state;
    assert_int_equal(gossip_log10_milli(1), 0);
    assert_int_equal(gossip_log10_milli(10), 1000);
    assert_in_range(gossip_log10_milli(50), 1698, 1699);
    assert_int_equal(gossip_log10_milli(100), 2000);
    assert_int_equal(gossip_log10_milli(1000), 3000);
    assert_in_range(gossip_log10_milli(UINT32_MAX), 9632, 9634);
    assert_int_equal(gossip_log2_fixed(1024), 10U << 16);
    static const struct {
        uint32_t n, limit;
    } limits[] = { { 1, 6 }, { 2, 7 }, { 50, 10 }, { 99, 11 }, { 100, 11 }, { 1000, 13 } };
    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        assert_int_equal(gossip_limit(limits[i].n), limits[i].limit);
    }
}

/* An accusation and a ping in one packet: the ack carries the refutation. */
static void ack_refutes(void **state)
{
    struct fixture *f = *state;
    AUTO_BUF struct buf body = BUF_INIT(1024);
    AUTO_BUF struct buf packet = BUF_INIT(1024);
    const struct gossip_msg ping = { .seq = 9, .node = STR("me"), .src_node = STR("a") };
    const struct gossip_msg word = { .node = STR("me"), .from = STR("a"), .incarnation = 1 };
    gossip_msg_write(&body, GOSSIP_PING, &ping);
    size_t first = body.len;
    gossip_msg_write(&body, GOSSIP_MSG_SUSPECT, &word);
    (void)buf_add_u8(&packet, GOSSIP_COMPOUND);
    (void)buf_add_u8(&packet, 2);
    (void)buf_add_be16(&packet, (uint16_t)first);
    (void)buf_add_be16(&packet, (uint16_t)(body.len - first));
    (void)buf_addstr(&packet, buf_str(&body));
    (void)step(f, (struct gossip_event){
                      .type = GOSSIP_EV_PACKET, .from = there, .bytes = buf_str(&packet) });
    const struct gossip_effect *fx = effect(f, GOSSIP_FX_PACKET);
    assert_non_null(fx);
    assert_true(gossip_addr_same(&fx->to, &there));
    assert_int_equal(fx->bytes.p[0], GOSSIP_COMPOUND);
    struct gossip_parts parts;
    struct str part;
    struct cur c;
    cur_init(&c, fx->bytes.p + 1, fx->bytes.n - 1);
    assert_true(gossip_parts_init(&parts, &c) && gossip_parts_next(&parts, &part));
    assert_int_equal(part.p[0], GOSSIP_ACK);
    assert_true(gossip_parts_next(&parts, &part));
    assert_int_equal(part.p[0], GOSSIP_MSG_ALIVE);
}

static void probes_of_others(void **state)
{
    struct fixture *f = *state;
    struct gossip_msg ping = { .seq = 3, .node = STR("someone-else") };
    say(f, GOSSIP_PING, &ping, &there);
    assert_null(effect(f, GOSSIP_FX_PACKET));
    ping.node = STR("me");
    ping.src.n = 4;
    memcpy(ping.src.b, other.ip, 4);
    ping.src_port = 99;
    say(f, GOSSIP_PING, &ping, &there);
    const struct gossip_effect *fx = effect(f, GOSSIP_FX_PACKET);
    assert_non_null(fx);
    assert_int_equal(fx->to.port, 99);
    /* on behalf of another: a ping of our own; no ack: a nack after 0.8 of the time */
    struct gossip_msg ask = { .seq = 300, .node = STR("x"), .port = 7946, .nack = true };
    ask.target.n = 4;
    memcpy(ask.target.b, other.ip, 4);
    say(f, GOSSIP_INDIRECT, &ask, &there);
    fx = effect(f, GOSSIP_FX_PACKET);
    assert_non_null(fx);
    assert_true(gossip_addr_same(&fx->to, &other));
    uint64_t asked = f->now;
    f->now = gossip_deadline_ms(f->g);
    assert_int_equal(f->now - asked, 400);
    (void)step(f, (struct gossip_event){ .type = GOSSIP_EV_TICK });
    fx = effect(f, GOSSIP_FX_PACKET);
    assert_non_null(fx);
    assert_int_equal(fx->bytes.p[0], GOSSIP_NACK);
    assert_true(gossip_addr_same(&fx->to, &there));
    tick(f, 200);
    assert_int_equal(f->g->relays_active, 0);
}

/* --- views --- */

static void offer(struct fixture *f, const struct gossip_msg *records, unsigned n, uint32_t nodes)
{
    AUTO_BUF struct buf b = BUF_INIT(1 << 20);
    const struct gossip_msg head = { .nodes = nodes, .join = true };
    gossip_msg_write(&b, GOSSIP_PULL, &head);
    for (unsigned i = 0; i < n; i++) {
        gossip_record_write(&b, &records[i]);
    }
    (void)step(f, (struct gossip_event){
                      .type = GOSSIP_EV_STREAM, .stream = 5, .from = there, .bytes = buf_str(&b) });
}

static void merges(void **state)
{
    struct fixture *f = *state;
    struct gossip_msg r[4];
    r[0] = alive_of("a", 3, &there);
    r[1] = alive_of("b", 3, &other);
    r[1].state = GOSSIP_LEFT;
    r[2] = alive_of("me", 7, &here);
    r[3] = alive_of("c", 2, &other);
    r[3].state = 9;
    offer(f, r, 4, 4);
    const struct gossip_effect *fx = effect(f, GOSSIP_FX_ANSWER);
    assert_non_null(fx);
    assert_int_equal(fx->stream, 5);
    assert_int_equal(state_of(f, "a"), GOSSIP_ALIVE);
    assert_int_equal(inc_of(f, "me"), 8); /* our own record from before a restart */
    /* a remote "dead" is only a suspicion */
    r[0].state = GOSSIP_DEAD;
    offer(f, r, 1, 1);
    assert_int_equal(state_of(f, "a"), GOSSIP_SUSPECT);
    r[0].state = GOSSIP_LEFT;
    offer(f, r, 1, 1);
    assert_int_equal(state_of(f, "a"), GOSSIP_LEFT);
}

static void refused_views(void **state)
{
    struct fixture *f = *state;
    struct gossip_msg r = alive_of("a", 3, &there);
    r.vsn[5] = 7;
    offer(f, &r, 1, 1); /* delegate version */
    assert_int_equal(gossip_counter(f->g, GOSSIP_C_DROP_VERSION), 1);
    r.vsn_len = 0;
    offer(f, &r, 1, 1);
    assert_int_equal(gossip_counter(f->g, GOSSIP_C_DROP_VERSION), 2);
    r = alive_of("a", 3, &there);
    offer(f, &r, 1, 2); /* one is missing */
    assert_non_null(effect(f, GOSSIP_FX_CLOSE));
    offer(f, &r, 1, 1000000);
    assert_non_null(effect(f, GOSSIP_FX_CLOSE));
    assert_int_equal(gossip_count(f->g, GOSSIP_ALIVE), 1);
    (void)step(f, (struct gossip_event){ .type = GOSSIP_EV_STREAM, .bytes = STR("") });
    assert_non_null(effect(f, GOSSIP_FX_CLOSE));
}

/* --- metadata, addresses --- */

static void metadata(void **state)
{
    struct fixture *f = *state;
    struct gossip_meta m = { .features = GOSSIP_FEATURE_TLS,
                             .http_port = 7575,
                             .http_ip = { 1, 2, 3, 4 },
                             .http_ip_len = 16,
                             .class_hash = 0x1122334455667788,
                             .caps_hash = UINT64_MAX,
                             .boot = 1 };
    struct gossip_meta got;
    uint8_t b[GOSSIP_META_OWN_MAX];
    size_t n;
    gossip_meta_write(&m, b, &n);
    assert_true(n <= GOSSIP_META_OWN_MAX);
    assert_true(gossip_meta_read((struct str){ (char *)b, n }, &got));
    assert_true(got.features == m.features && got.http_port == m.http_port &&
                got.http_ip_len == 16 && memcmp(got.http_ip, m.http_ip, 16) == 0 &&
                got.class_hash == m.class_hash && got.caps_hash == m.caps_hash &&
                got.boot == m.boot);
    for (size_t i = 2; i < n; i++) {
        assert_true(gossip_meta_read((struct str){ (char *)b, i }, &got));
    }
    assert_false(gossip_meta_read((struct str){ (char *)b, 1 }, &got));
    assert_false(gossip_meta_read(STR("\xff\x81\xa4role\xa1x"), &got));
    (void)step(f, (struct gossip_event){ .type = GOSSIP_EV_META, .bytes = { (char *)b, n } });
    assert_int_equal(inc_of(f, "me"), 2);
    (void)step(f, (struct gossip_event){ .type = GOSSIP_EV_META, .bytes = { (char *)b, n } });
    assert_int_equal(inc_of(f, "me"), 2);
}

static void addresses(void **state)
{
    static const struct {
        const char *in, *out;
    } good[] = {
        { "10.0.0.1:7946", NULL },
        { "0.0.0.0:0", NULL },
        { "[::1]:80", NULL },
        { "[fd00::1:0:0:2]:65535", NULL },
        { "[::]:1", NULL },
        { "[2001:db8::]:5", NULL },
        { "[1:2:3:4:5:6:7:8]:9", NULL },
        { "[::ffff:a00:1]:7", "10.0.0.1:7" },
        { "[1:0:0:2:0:0:0:3]:4", "[1:0:0:2::3]:4" },
        { "[1::3:0:5:6:7]:4", NULL },
    };
    static const char *const bad[] = { "",
                                       "10.0.0.1",
                                       "10.0.0:1",
                                       "10.0.0.256:1",
                                       "1.2.3.4.5:6",
                                       "host:1",
                                       "[::1]",
                                       "[::1:80",
                                       "[1:2:3]:4",
                                       "[1::2::3]:4",
                                       "[12345::]:1",
                                       "[:1:2]:3",
                                       "[1:2:3:4:5:6:7:8:9]:1",
                                       "10.0.0.1:65536",
                                       "[1:2:3:4:5:6:7::8]:1x" };
    char text[GOSSIP_ADDR_TEXT_CAP];
    struct gossip_addr a;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(gossip_addr_parse(str_of(good[i].in), &a), 0);
        assert_string_equal(gossip_addr_format(&a, text),
                            good[i].out != NULL ? good[i].out : good[i].in);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(gossip_addr_parse(str_of(bad[i]), &a), -EINVAL);
    }
    struct gossip_addr b;
    assert_int_equal(gossip_addr_parse(STR("[::ffff:a00:1]:7946"), &a), 0);
    assert_int_equal(gossip_addr_parse(STR("10.0.0.1:7946"), &b), 0);
    assert_true(gossip_addr_same(&a, &b));
    b.port++;
    assert_false(gossip_addr_same(&a, &b));
}

/* --- what outlives a restart --- */

static void remembers(void **state)
{
    struct fixture *f = *state;
    alive(f, "a", 1, &there);
    against(f, GOSSIP_MSG_DEAD, "a", 1, "x");
    alive(f, "b", 1, &other);
    uint64_t until = f->now + 10000;
    const struct gossip_effect *fx = NULL;
    while (fx == NULL && f->now < until) {
        f->now = gossip_deadline_ms(f->g);
        (void)step(f, (struct gossip_event){ .type = GOSSIP_EV_TICK });
        fx = effect(f, GOSSIP_FX_REMEMBER);
    }
    assert_non_null(fx);
    AUTO_MEM char *text = mem_strndup(fx->bytes.p, fx->bytes.n);
    assert_non_null(strstr(text, "a 10.0.0.2:7946 "));
    assert_non_null(strstr(text, "b 10.0.0.9:7946 "));
    void *fresh = NULL;
    assert_int_equal(setup(&fresh), 0);
    struct fixture *g = fresh;
    (void)step(g, (struct gossip_event){ .type = GOSSIP_EV_REMEMBER, .bytes = str_of(text) });
    (void)step(g, (struct gossip_event){ .type = GOSSIP_EV_REMEMBER,
                                         .bytes = STR("junk\n\n \nx y z\nq 1.2.3.4:5 x\n\xff") });
    assert_int_equal(g->g->lost_len, 2);
    g->now = gossip_deadline_ms(g->g);
    (void)step(g, (struct gossip_event){ .type = GOSSIP_EV_TICK });
    assert_non_null(effect(g, GOSSIP_FX_OPEN));
    (void)teardown(&fresh);
}

/* --- clusters, with the sanitizers on --- */

static bool whole(struct cluster *c, void *arg)
{
    (void)arg;
    return cluster_whole(c);
}

static void small_clusters(void **state)
{
    uint64_t seed = test_seed("small_clusters");
    (void)state;
    for (unsigned round = 0; round < 6; round++) {
        const struct cluster_options opt = { .seed = seed + round, .nodes = 12, .spare = 30 };
        struct cluster *c = cluster_new(&opt);
        struct sim_network *net = sim_network(cluster_sim(c));
        struct rng *r = sim_rng(cluster_sim(c));
        net->loss_permille = (uint32_t)rng_below(r, 200);
        net->twice_permille = (uint32_t)rng_below(r, 200);
        net->late_permille = (uint32_t)rng_below(r, 200);
        net->late_us = 30000;
        cluster_form(c, 200);
        for (unsigned i = 0; i < 30; i++) {
            uint32_t n = (uint32_t)rng_below(r, 12);
            switch (rng_below(r, 4)) {
            case 0:
                sim_pause(cluster_sim(c), cluster_host(c, n), rng_below(r, 5000));
                break;
            case 1:
                sim_group(cluster_sim(c), cluster_host(c, n), (uint32_t)rng_below(r, 2));
                break;
            case 2:
                if (cluster_core(c, n) != NULL) {
                    cluster_crash(c, n);
                    break;
                }
                cluster_start(c, n, true);
                break;
            default:
                if (cluster_core(c, n) != NULL) {
                    cluster_set_meta(c, n, i);
                }
                break;
            }
            sim_run(cluster_sim(c), rng_below(r, 3000));
        }
        for (uint32_t n = 0; n < 12; n++) {
            sim_group(cluster_sim(c), cluster_host(c, n), 0);
            if (cluster_core(c, n) == NULL) {
                cluster_start(c, n, true);
            }
            cluster_join(c, n, (n + 1) % 12);
        }
        (void)cluster_until(c, "whole at last", whole, NULL, 60000);
        cluster_free(c);
    }
}

/* Memory that fails at any place harms nobody: the core goes on, and is whole again later. */
static void no_memory(void **state)
{
    (void)state;
    for (long after = 0; after < 400; after += 1 + after / 16) {
        void *s = NULL;
        assert_int_equal(setup(&s), 0);
        struct fixture *f = s;
        AUTO_BUF struct buf b = BUF_INIT(4096);
        struct gossip_msg m = alive_of("a", 1, &there);
        gossip_msg_write(&b, GOSSIP_MSG_ALIVE, &m);
        mem_fail_after(after, 1);
        (void)step(f, (struct gossip_event){
                          .type = GOSSIP_EV_PACKET, .from = there, .bytes = buf_str(&b) });
        for (unsigned i = 0; i < 40; i++) {
            f->now += 250;
            (void)step(f, (struct gossip_event){ .type = GOSSIP_EV_TICK });
        }
        (void)step(f, (struct gossip_event){ .type = GOSSIP_EV_JOIN, .from = other });
        (void)step(f, (struct gossip_event){ .type = GOSSIP_EV_LEAVE });
        mem_fail_after(-1, 0);
        tick(f, 10000);
        /* its own word of leaving may be among what was lost */
        assert_true(state_of(f, "me") == GOSSIP_ALIVE || state_of(f, "me") == GOSSIP_LEFT);
        assert_true(f->g->left || !f->g->leaving);
        (void)teardown(&s);
    }
}

int main(void)
{
#define WITH(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH(precedence),
        WITH(refutation),
        WITH(impossible_incarnations),
        WITH(conflicts),
        WITH(impossible_members),
        WITH(suspicion_times),
        cmocka_unit_test(logarithms),
        WITH(ack_refutes),
        WITH(probes_of_others),
        WITH(merges),
        WITH(refused_views),
        WITH(metadata),
        cmocka_unit_test(addresses),
        WITH(remembers),
        cmocka_unit_test(small_clusters),
        cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests_name("gossip", tests, NULL, NULL);
}
