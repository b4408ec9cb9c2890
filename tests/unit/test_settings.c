#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/insist.h"
#include "common/mem.h"
#include "common/settings.h"
#include "common/sys/sys_file.h"

#include <fcntl.h>

static int parse(const char *text, const char *const *args, size_t n, struct settings *s,
                 struct err *e)
{
    return settings_parse("agent.conf", str_of(text), args, n, s, e);
}

static void good(const char *text, struct settings *s)
{
    struct err e = { 0 };
    if (parse(text, NULL, 0, s, &e) != 0) {
        fail_msg("%s: %s", text, err_text(&e));
    }
}

static void bad(const char *text, const char *message)
{
    static struct settings s;
    struct err e = { 0 };
    assert_int_equal(parse(text, NULL, 0, &s, &e), -EINVAL);
    if (strstr(err_text(&e), message) == NULL) {
        fail_msg("%s:\ngot  '%s'\nwant '%s'", text, err_text(&e), message);
    }
}

/* The names and defaults that DESIGN.md fixes. */
static void fixed_names(void **state)
{
    static const struct {
        const char *section;
        const char *key;
        const char *def;
    } t[] = {
        { "node", "name", "" },
        { "node", "data_dir", "/var/lib/agent" },
        { "node", "user", "agent" },
        { "node", "slots", "auto" },
        { "node", "memory", "auto" },
        { "node", "labels", "" },
        { "node", "capabilities_mask", "" },
        { "http", "listen", "127.0.0.1:7575" },
        { "http", "advertise", "" },
        { "http", "tls_cert", "" },
        { "http", "tls_key", "" },
        { "http", "tls_client_ca", "" },
        { "http", "tls_crl", "" },
        { "http", "max_body_bytes", "1GiB" },
        { "gossip", "listen", "127.0.0.1:7946" },
        { "gossip", "advertise", "" },
        { "gossip", "join", "" },
        { "gossip", "key_file", "" },
        { "gossip", "label", "" },
        { "gossip", "profile", "lan" },
        { "gossip", "vsn", "1,5,2,0,0,0" },
        { "auth", "tokens_file", "" },
        { "auth", "insecure", "no" },
        { "store", "replicas", "2" },
        { "store", "replicas_min", "1" },
        { "store", "retention", "7d" },
        { "store", "retention_failed", "30d" },
        { "store", "retention_bytes", "10GiB" },
        { "routing", "policy", "learned" },
        { "routing", "probes", "4" },
        { "sandbox", "network", "none" },
        { "sandbox", "allow_host_network", "no" },
        { "sandbox", "uid_base", "1879048192" },
        { "sandbox", "grace", "10s" },
        { "sandbox", "disk_bytes", "1GiB" },
        { "sandbox", "output_bytes", "1GiB" },
        { "sandbox", "log_bytes", "16MiB" },
        { "telemetry", "interval", "1s" },
        { "telemetry", "resctrl_path", "/sys/fs/resctrl" },
        { "telemetry", "cgroup_path", "" },
        { "mqtt", "url", "" },
        { "mqtt", "username", "" },
        { "mqtt", "password_file", "" },
        { "log", "level", "info" },
        { "log", "format", "text" },
    };
    static struct settings s;
    (void)state;
    settings_defaults(&s);
    assert_int_equal(settings_check(&s, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(t); i++) {
        const struct conf_key *k =
            conf_find(&settings_table, str_of(t[i].section), str_of(t[i].key));
        AUTO_BUF struct buf text = BUF_INIT(1000);
        assert_non_null(k);
        conf_print(k, &s, &text);
        assert_string_equal(buf_cstr(&text), t[i].def);
    }
    assert_true(s.http.max_body_bytes == UINT64_C(1) << 30);
    assert_int_equal(s.store.retention_ms, 7 * 86400000);
    assert_int_equal(s.sandbox.uid_base, 1879048192);
}

/* Rows of one section stand together, no key twice, every row has help, members do not overlap. */
static void the_table_is_sound(void **state)
{
    const struct conf_table *t = &settings_table;
    (void)state;
    for (size_t i = 0; i < t->keys_len; i++) {
        const struct conf_key *k = &t->keys[i];
        assert_non_null(k->help);
        assert_true(k->help[strlen(k->help) - 1] == '.');
        assert_true(k->size != 0);
        for (size_t j = i + 1; j < t->keys_len; j++) {
            const struct conf_key *o = &t->keys[j];
            assert_false(strcmp(k->section, o->section) == 0 && strcmp(k->key, o->key) == 0);
            assert_true(k->offset + k->size <= o->offset || o->offset + o->size <= k->offset);
            if (j > i + 1 && strcmp(k->section, o->section) == 0) {
                assert_string_equal(t->keys[j - 1].section, k->section);
            }
        }
        assert_true(k->type == CONF_BOOL     ? k->size == sizeof(bool)
                    : k->type == CONF_CHOICE ? k->size == sizeof(unsigned)
                    : k->type >= CONF_INT    ? k->size == sizeof(uint64_t)
                                             : k->size > 8);
    }
}

static void rules_between_keys(void **state)
{
    static struct settings s;
    (void)state;
    bad("[http]\nlisten = 0.0.0.0:7575",
        "http.listen = 0.0.0.0:7575 is not loopback: set http.tls_cert");
    bad("[http]\nlisten = :7575", "not loopback");
    bad("[http]\nlisten = 127.evil.example:1", "not loopback");
    bad("[http]\nlisten = 0.0.0.0:1\ntls_cert = /c\ntls_key = /k",
        "not loopback"); /* tokens, too */
    bad("[gossip]\nlisten = 10.0.0.1:7946", "set gossip.key_file");
    good("[http]\nlisten = 0.0.0.0:1\n[gossip]\nlisten=10.0.0.1:1\n[auth]\ninsecure = yes", &s);
    good("[http]\nlisten = 0.0.0.0:1\ntls_cert = /c\ntls_key = /k\n[auth]\ntokens_file = /t", &s);
    bad("[gossip]\nlisten = 10.0.0.1:7946\nkey_file = /k", "set http.tls_client_ca");
    good("[gossip]\nlisten = 10.0.0.1:7946\nkey_file = /k\n[http]\ntls_cert = /c\ntls_key = /k\n"
         "tls_client_ca = /a",
         &s);
    bad("[http]\ntls_cert = /c\ntls_key = /k\ntls_crl = /l", "http.tls_crl needs");
    good("[http]\nlisten = [::1]:7575", &s);
    good("[http]\nlisten = localhost:0", &s);
    bad("[http]\ntls_cert = /c", "http.tls_key is not set");
    bad("[http]\ntls_key = /c", "http.tls_cert is not set");
    bad("[http]\ntls_client_ca = /c", "needs http.tls_cert");
    bad("[sandbox]\nallow_host_network = yes", "needs auth.tokens_file");
    bad("[sandbox]\nallow_host_network = yes\n[auth]\ninsecure = yes", "needs auth.tokens_file");
    bad("[sandbox]\nnetwork = host", "needs sandbox.allow_host_network");
    good("[sandbox]\nnetwork = host\nallow_host_network = yes\n[auth]\ntokens_file = /t", &s);
    good("[sandbox]\nnetwork = nat", &s);
    bad("[sandbox]\nnetwork = nat\nallow_nat = no", "needs sandbox.allow_nat");
    good("[sandbox]\nnat_pool4 = 172.31.0.0/20\nnat_pool6 = none", &s);
    good("[sandbox]\nnat_pool6 = fd12:3456:789a::/64", &s);
    bad("[sandbox]\nnat_pool4 = 10.0.0.1/8", "behind its prefix");
    bad("[sandbox]\nnat_pool4 = 10.0.0.0/32", "8 to 31");
    bad("[sandbox]\nnat_pool4 = fd00::/48", "8 to 31");
    bad("[sandbox]\nnat_pool6 = fd00::/113", "16 to 112");
    bad("[sandbox]\nnat_pool6 = maybe", "sandbox.nat_pool6 = maybe");
    good("[sandbox]\nnat_closed = 10.0.0.0/8, 2001:db8::/32\nnat_open = 192.0.2.1:5432", &s);
    good("[sandbox]\nnat_resolvers = 127.0.0.53,::1", &s);
    bad("[sandbox]\nnat_resolvers = dns.example.org", "sandbox.nat_resolvers");
    bad("[sandbox]\nnat_closed = 10.0.0.0/8:80", "sandbox.nat_closed");
    bad("[sandbox]\nnat_open = example.org:80", "takes addresses");
    bad("[store]\nreplicas = 2\nreplicas_min = 3", "replicas_min is larger");
    bad("[sandbox]\ntimeout = 2d", "sandbox.timeout is larger");
    bad("[sandbox]\nmemory_max = 256MiB", "sandbox.memory is larger");
    bad("[sandbox]\nuid_base = 4026531840\n[node]\nslots = 4096", "leaves no room");
    good("[sandbox]\nuid_base = 4026531840\n[node]\nslots = 4095", &s);
    bad("[node]\nname = a/b", "node.name 'a/b'");
    bad("[node]\nname = -a", "node.name");
    bad("[node]\nname = ..", "node.name");
    bad("[node]\nlabels = a=b,c", "'c' is not key=value");
    bad("[gossip]\nvsn = 1,5,2,0,0", "six numbers");
    bad("[gossip]\nvsn = 1,5,2,0,0,256", "'256'");
    bad("[gossip]\njoin = a:1,b:0", "'b:0'");
    good("[gossip]\njoin = a, b:7946 , 10.0.0.1:1", &s);
    assert_string_equal(s.gossip.join, "a,b:7946,10.0.0.1:1");
    bad("[mqtt]\nurl = tcp://x", "mqtt://");
}

static void overrides_win(void **state)
{
    static const char *const args[] = { "--node.slots=3", "--log.level=debug", "--node.slots=5" };
    static const char *const wrong[] = { "--node.slots=many" };
    static struct settings s;
    static struct settings before;
    struct err e;
    (void)state;
    assert_int_equal(parse("[node]\nslots = 9", args, ARRAY_LEN(args), &s, &e), 0);
    assert_int_equal(s.node.slots, 5);
    assert_int_equal(s.log.level, 3);
    before = s;
    assert_int_equal(parse("", wrong, 1, &s, &e), -EINVAL);
    assert_memory_equal(&before, &s, sizeof s); /* untouched */
}

static void note(void *arg, const struct conf_key *k)
{
    struct buf *out = arg;
    buf_addf(out, "%s.%s ", k->section, k->key);
}

static void reload(void **state)
{
    static struct settings s;
    static struct settings next;
    AUTO_BUF struct buf kept = BUF_INIT(1000);
    AUTO_BUF struct buf changed = BUF_INIT(1000);
    struct err e;
    size_t taken = 99;
    (void)state;
    good("", &s);
    good("[node]\nslots = 7\nmemory = 64MiB\n[log]\nlevel = debug\nformat = json", &next);
    settings_diff(&s, &next, note, &changed);
    assert_string_equal(buf_cstr(&changed), "node.slots node.memory log.level log.format ");
    assert_int_equal(settings_reload(&s, &next, &taken, &kept, &e), 0);
    assert_int_equal(taken, 2);
    assert_string_equal(buf_cstr(&kept), "node.slots, log.format");
    assert_int_equal(s.node.memory, 64 << 20);
    assert_int_equal(s.node.slots, 0);
    assert_int_equal(s.log.level, 3);
    /* Each file is right; the open port stays, so its certificate may not go. */
    good("[http]\nlisten = 0.0.0.0:1\ntls_cert = /c\ntls_key = /k\n[auth]\ntokens_file = /t", &s);
    good("[node]\nmemory = 64MiB", &next);
    assert_int_equal(settings_reload(&s, &next, &taken, NULL, &e), -EINVAL);
    assert_string_equal(s.http.tls_cert, "/c");
    assert_int_equal(s.node.memory, 0);
}

static void addresses(void **state)
{
    char host[32];
    uint16_t port;
    (void)state;
    assert_int_equal(settings_addr_split("[::1]:80", host, sizeof host, &port), 0);
    assert_string_equal(host, "::1");
    assert_int_equal(port, 80);
    assert_int_equal(settings_addr_split(":65535", host, sizeof host, &port), 0);
    assert_string_equal(host, "");
    assert_int_equal(port, 65535);
    assert_int_equal(settings_addr_split("x", host, sizeof host, &port), -EINVAL);
    assert_int_equal(settings_addr_split("x:65536", host, sizeof host, &port), -EINVAL);
    assert_int_equal(
        settings_addr_split("a.name.that.is.too.long.for.the.place:1", host, sizeof host, &port),
        -ENAMETOOLONG);
    assert_true(settings_addr_is_loopback("127.0.0.2:1") &&
                settings_addr_is_loopback("LOCALHOST:1") && settings_addr_is_loopback("[::1]:1"));
    assert_false(settings_addr_is_loopback("0.0.0.0:1") || settings_addr_is_loopback(":1") ||
                 settings_addr_is_loopback("[::]:1") || settings_addr_is_loopback("128.0.0.1:1") ||
                 settings_addr_is_loopback("nonsense"));
}

/* agent.conf.example is generated: UPDATE=1 writes it anew. */
static void the_example_is_up_to_date(void **state)
{
    AUTO_BUF struct buf want = BUF_INIT(1 << 20);
    AUTO_BUF struct buf have = BUF_INIT(1 << 20);
    struct err e = { 0 };
    static struct settings s;
    (void)state;
    settings_example(&want);
    assert_int_equal(buf_error(&want), 0);
    if (getenv("UPDATE") != NULL) {
        assert_int_equal(
            sys_write_file_atomic(AT_FDCWD, "agent.conf.example", want.data, want.len, 0644, &e),
            0);
    }
    if (sys_read_file(AT_FDCWD, "agent.conf.example", 1 << 20, &have, &e) != 0) {
        fail_msg("%s (run in the top directory)", err_text(&e));
    }
    assert_string_equal(buf_cstr(&have), buf_cstr(&want));
    good(buf_cstr(&want), &s);
}

static void no_memory_anywhere(void **state)
{
    static struct settings s;
    long n = 0;
    int r;
    (void)state;
    do {
        struct err e = { 0 };
        mem_fail_after(n++, 1);
        r = parse("[node]\nslots = 2", NULL, 0, &s, &e);
        mem_fail_after(-1, 0);
        assert_true(r == 0 || r == -ENOMEM);
    } while (r != 0);
    assert_true(n > 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fixed_names),
        cmocka_unit_test(the_table_is_sound),
        cmocka_unit_test(rules_between_keys),
        cmocka_unit_test(overrides_win),
        cmocka_unit_test(reload),
        cmocka_unit_test(addresses),
        cmocka_unit_test(the_example_is_up_to_date),
        cmocka_unit_test(no_memory_anywhere),
    };
    return cmocka_run_group_tests_name("settings", tests, NULL, NULL);
}
