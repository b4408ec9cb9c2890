#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/conf.h"
#include "common/insist.h"
#include "common/mem.h"

struct object {
    char name[32];
    char path[32];
    char addr[64];
    char list[64];
    char secret[16];
    bool flag;
    uint64_t count;
    uint64_t size;
    uint64_t time_ms;
    uint64_t cpus;
    unsigned color;
};

#define AT(member_) \
    .offset = offsetof(struct object, member_), .size = sizeof(((struct object *)NULL)->member_)

static const char *const colors[] = { "red", "green", "blue", NULL };
static const struct conf_section sections[] = { { "first", "The first." },
                                                { "second", "The second." } };
static const struct conf_key keys[] = {
    { .section = "first",
      .key = "name",
      .type = CONF_TEXT,
      AT(name),
      .def = "",
      .max = 10,
      .help = "A name." },
    { .section = "first",
      .key = "path",
      .type = CONF_PATH,
      AT(path),
      .def = "/x",
      .help = "A path." },
    { .section = "first",
      .key = "addr",
      .type = CONF_ADDR,
      AT(addr),
      .def = "127.0.0.1:1",
      .help = "Where." },
    { .section = "first",
      .key = "list",
      .type = CONF_LIST,
      AT(list),
      .def = "",
      .help = "Several.\nLines." },
    { .section = "first",
      .key = "secret",
      .type = CONF_TEXT,
      AT(secret),
      .def = "",
      .secret = true,
      .help = "Hidden." },
    { .section = "second",
      .key = "flag",
      .type = CONF_BOOL,
      AT(flag),
      .def = "no",
      .help = "A switch." },
    { .section = "second",
      .key = "count",
      .type = CONF_INT,
      AT(count),
      .def = "auto",
      .min = 2,
      .max = 9,
      .zero = "auto",
      .reloadable = true,
      .help = "How many." },
    { .section = "second",
      .key = "size",
      .type = CONF_SIZE,
      AT(size),
      .def = "64KiB",
      .min = 1024,
      .max = 1048576,
      .help = "How large." },
    { .section = "second",
      .key = "time",
      .type = CONF_DURATION,
      AT(time_ms),
      .def = "1m",
      .min = 10,
      .max = 3600000,
      .help = "How long." },
    { .section = "second",
      .key = "cpus",
      .type = CONF_MILLI,
      AT(cpus),
      .def = "1.5",
      .min = 10,
      .max = 64000,
      .help = "How fast." },
    { .section = "second",
      .key = "color",
      .type = CONF_CHOICE,
      AT(color),
      .def = "green",
      .choices = colors,
      .help = "Which." },
};
static const struct conf_table table = {
    .about = "example",
    .sections = sections,
    .sections_len = ARRAY_LEN(sections),
    .keys = keys,
    .keys_len = ARRAY_LEN(keys),
    .object_size = sizeof(struct object),
};

static int parse_n(const char *text, size_t n, struct object *o, struct err *e)
{
    conf_defaults(&table, o);
    return conf_parse(&table, "t.conf", (struct str){ text, n }, o, NULL, e);
}

static void good(const char *text, struct object *o)
{
    struct err e = { 0 };
    if (parse_n(text, strlen(text), o, &e) != 0) {
        fail_msg("%s: %s", text, err_text(&e));
    }
}

static void bad(const char *text, const char *message)
{
    struct object o;
    struct err e = { 0 };
    if (parse_n(text, strlen(text), &o, &e) != -EINVAL) {
        fail_msg("accepted: %s", text);
    }
    if (strcmp(err_text(&e), message) != 0) {
        fail_msg("%s:\ngot  '%s'\nwant '%s'", text, err_text(&e), message);
    }
}

static void values(void **state)
{
    struct object o;
    (void)state;
    good("", &o);
    assert_string_equal(o.name, "");
    assert_string_equal(o.path, "/x");
    assert_int_equal(o.count, 0);
    assert_int_equal(o.size, 65536);
    assert_int_equal(o.time_ms, 60000);
    assert_int_equal(o.cpus, 1500);
    assert_int_equal(o.color, 1);
    good(
        "# comment\n; another\n\n[first]\n  name = a b=c \t\r\n path=/y;z ; comment\naddr = [::1]:80\n"
        "list = a , b,c\nsecret=s3\n[second] # why not\nflag=YES\ncount = 9\nsize= 1.5k\ntime = 1m30s\n"
        "cpus = 0.25\ncolor = blue\n[first]",
        &o);
    assert_string_equal(o.name, "a b=c");
    assert_string_equal(o.path, "/y;z");
    assert_string_equal(o.addr, "[::1]:80");
    assert_string_equal(o.list, "a,b,c");
    assert_string_equal(o.secret, "s3");
    assert_true(o.flag);
    assert_int_equal(o.count, 9);
    assert_int_equal(o.size, 1536);
    assert_int_equal(o.time_ms, 90000);
    assert_int_equal(o.cpus, 250);
    assert_int_equal(o.color, 2);
    good("[first]\nname =\nlist=\n[second]\ncount=auto", &o); /* empty where the default is */
    assert_string_equal(o.name, "");
    assert_int_equal(o.count, 0);
    /* Long values: inih's own limit is 200 bytes. */
    char text[300];
    (void)snprintf(text, sizeof text, "[first]\n%0250d\n", 0);
    struct err e;
    assert_int_equal(parse_n(text, strlen(text), &o, &e), -EINVAL);
    (void)snprintf(text, sizeof text, "[first]\n%200s path = /last\n", "");
    good(text, &o);
    assert_string_equal(o.path, "/last");
}

static void messages(void **state)
{
    (void)state;
    bad("[first]\nnmae = x", "t.conf:2: unknown key 'nmae' in [first]; did you mean 'name'?");
    bad("[first]\nzzzzzz = x", "t.conf:2: unknown key 'zzzzzz' in [first]");
    bad("[first]\n\nflag = x", "t.conf:3: unknown key 'flag' in [first]; there is one in [second]");
    bad("[frist]\nname = x", "t.conf:1: unknown section [frist]; did you mean [first]?");
    bad("[other]\n", "t.conf:1: unknown section [other]");
    bad("name = x", "t.conf:1: 'name' stands before the first [section]");
    bad("[first]\nname = x\nname = y", "t.conf:3: first.name was set in line 2 already");
    bad("[first]\nname = x\n[second]\n[first]\nname = x",
        "t.conf:5: first.name was set in line 2 already");
    bad("[first]\nname x", "t.conf:2: expected 'key = value', '[section]' or a comment");
    bad("[first]\nname: x", "t.conf:2: expected 'key = value', '[section]' or a comment");
    bad("[first]\n= x", "t.conf:2: there is no key before '='");
    bad("[first]\nname =;x", "t.conf:2: a value cannot begin with ';'");
    bad("[first\nname = x", "t.conf:1: a section line is '[name]'");
    bad("[]\n", "t.conf:1: a section line is '[name]'");
    bad("[first] x\n", "t.conf:1: a section line is '[name]'");
    bad("\xef\xbb\xbf[first]\n",
        "t.conf:1: the file begins with a byte-order mark; save it as UTF-8 without one");
    bad("[first]\nname = \xff", "t.conf:2: not valid UTF-8");
    bad("[first]\nname = 12345678901",
        "t.conf:2: first.name: '12345678901' is not allowed; it takes text, at most 10 bytes");
    bad("[first]\npath = x",
        "t.conf:2: first.path: 'x' is not allowed; it takes an absolute path, at most 31 bytes");
    bad("[first]\npath =",
        "t.conf:2: first.path: '' is not allowed; it takes an absolute path, at most 31 bytes");
    bad("[second]\ncount = 1",
        "t.conf:2: second.count: '1' is not allowed; it takes a number, 2 to 9, or 'auto'");
    bad("[second]\ncount = 0",
        "t.conf:2: second.count: '0' is not allowed; it takes a number, 2 to 9, or 'auto'");
    bad("[second]\nsize = 2M",
        "t.conf:2: second.size: '2M' is not allowed; it takes a size in bytes (64KiB, "
        "1.5GiB, 10MB), 1KiB to 1MiB");
    bad("[second]\ntime = 1x",
        "t.conf:2: second.time: '1x' is not allowed; it takes a duration (250ms, 10s, "
        "1h30m, 7d), 10ms to 1h");
    bad("[second]\ncpus = 0.0001",
        "t.conf:2: second.cpus: '0.0001' is not allowed; it takes a number with up to "
        "three decimals, 0.01 to 64");
    bad("[second]\ncolor = pink",
        "t.conf:2: second.color: 'pink' is not allowed; it takes red, green, blue");
    bad("[second]\nflag = maybe",
        "t.conf:2: second.flag: 'maybe' is not allowed; it takes yes or no");
    bad("[first]\nsecret = 0123456789abcdefX",
        "t.conf:2: first.secret: '(secret)' is not allowed; it takes text, at "
        "most 15 bytes");
    static const char *const addrs[] = { "x",      "x:",    "x:65536", "x:1x", "a b:1",
                                         "[::1:1", "::1:1", "[]:1",    "x/y:1" };
    for (size_t i = 0; i < ARRAY_LEN(addrs); i++) {
        char text[100];
        struct object o;
        struct err e;
        (void)snprintf(text, sizeof text, "[first]\naddr = %s", addrs[i]);
        assert_int_equal(parse_n(text, strlen(text), &o, &e), -EINVAL);
        assert_non_null(strstr(err_text(&e), "it takes host:port"));
    }
    static const char *const lists[] = { ",", "a,", ",a", "a,,b", "a, ,b" };
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        char text[100];
        struct object o;
        struct err e;
        (void)snprintf(text, sizeof text, "[first]\nlist = %s", lists[i]);
        assert_int_equal(parse_n(text, strlen(text), &o, &e), -EINVAL);
    }
}

static void hostile_files(void **state)
{
    static const char nul[] = "[first]\nname = a\0b\n";
    AUTO_BUF struct buf b = BUF_INIT(2 * CONF_FILE_MAX);
    struct object o;
    struct err e;
    (void)state;
    assert_int_equal(parse_n(nul, sizeof nul - 1, &o, &e), -EINVAL);
    assert_string_equal(err_text(&e), "t.conf:2: a NUL byte");
    /* Lines at the limit and past it; without a newline as well. */
    for (size_t more = 0; more < 2; more++) {
        for (int newline = 0; newline < 2; newline++) {
            buf_reset(&b);
            buf_adds(&b, "[first]\n#");
            for (size_t i = 1; i < CONF_LINE_MAX + more; i++) {
                buf_addc(&b, 'x');
            }
            buf_adds(&b, newline ? "\n" : "");
            assert_int_equal(parse_n(b.data, b.len, &o, &e), more ? -EINVAL : 0);
        }
    }
    assert_string_equal(err_text(&e), "t.conf:2: the line is longer than 4096 bytes");
    buf_reset(&b);
    for (size_t i = 0; i <= CONF_FILE_MAX; i++) {
        buf_addc(&b, '\n');
    }
    assert_int_equal(parse_n(b.data, b.len, &o, &e), -E2BIG);
    assert_int_equal(parse_n(b.data, b.len - 1, &o, &e), 0);
}

static void overrides(void **state)
{
    struct object o;
    struct conf_seen seen = { 0 };
    struct err e;
    (void)state;
    conf_defaults(&table, &o);
    assert_int_equal(conf_parse(&table, "t.conf", STR("[first]\nname = file"), &o, &seen, &e), 0);
    assert_int_equal(conf_override(&table, "--first.name=arg", &o, &seen, &e), 0);
    assert_int_equal(conf_override(&table, "first.name=arg=2", &o, &seen, &e), 0);
    assert_string_equal(o.name, "arg=2");
    assert_true(seen.line[0] == UINT32_MAX && seen.line[1] == 0);
    assert_int_equal(conf_override(&table, "--second.count=99", &o, &seen, &e), -EINVAL);
    assert_string_equal(
        err_text(&e),
        "--second.count: second.count: '99' is not allowed; it takes a number, 2 to 9, or 'auto'");
    assert_int_equal(conf_override(&table, "--first.nam=1", &o, NULL, &e), -EINVAL);
    assert_string_equal(err_text(&e),
                        "--first.nam: unknown key 'nam' in [first]; did you mean 'name'?");
    assert_int_equal(conf_override(&table, "--first.name", &o, NULL, &e), -EINVAL);
    assert_int_equal(conf_override(&table, "--name=x", &o, NULL, &e), -EINVAL);
    assert_int_equal(conf_override(&table, "--first.name=\xff", &o, NULL, &e), -EINVAL);
    assert_true(conf_is_override("--a.b=c") && conf_is_override("--a.b"));
    assert_false(conf_is_override("--config") || conf_is_override("-a.b=c") ||
                 conf_is_override("--x=a.b") || conf_is_override("--.b=c"));
}

static void printing(void **state)
{
    struct object o;
    struct object back;
    struct err e = { 0 };
    AUTO_BUF struct buf text = BUF_INIT(10000);
    (void)state;
    good(
        "[first]\nname=n\nsecret=x\nlist=a,b\n[second]\nflag=on\ncount=3\nsize=1536\ntime=90s\ncpus=0.05\n"
        "color=red",
        &o);
    /* What is printed reads back as the same. */
    for (size_t i = 0; i < table.keys_len; i++) {
        if (i == 0 || strcmp(keys[i].section, keys[i - 1].section) != 0) {
            buf_addf(&text, "[%s]\n", keys[i].section);
        }
        buf_addf(&text, "%s = ", keys[i].key);
        conf_print(&keys[i], &o, &text);
        buf_adds(&text, "\n");
    }
    assert_string_equal(
        buf_cstr(&text),
        "[first]\nname = n\npath = /x\naddr = 127.0.0.1:1\nlist = a,b\nsecret = (secret)\n"
        "[second]\nflag = yes\ncount = 3\nsize = 1536\ntime = 90s\ncpus = 0.05\ncolor = red\n");
    assert_int_equal(parse_n(text.data, text.len, &back, &e), 0);
    for (size_t i = 0; i < table.keys_len; i++) {
        assert_int_equal(conf_equal(&keys[i], &o, &back), !keys[i].secret);
    }
    assert_ptr_equal(conf_find(&table, STR("second"), STR("size")), &keys[7]);
    assert_null(conf_find(&table, STR("first"), STR("size")));
}

/* The example, with every key's '#' taken off, is a file that says the defaults. */
static void example(void **state)
{
    AUTO_BUF struct buf text = BUF_INIT(100000);
    AUTO_BUF struct buf all = BUF_INIT(100000);
    struct object o;
    struct object want;
    struct err e = { 0 };
    (void)state;
    conf_example(&table, &text);
    assert_int_equal(buf_error(&text), 0);
    assert_non_null(
        strstr(buf_cstr(&text),
               "# How many.\n# Takes: a number, 2 to 9, or 'auto'.\n# Default: auto. SIGHUP "
               "applies a change.\n#count = auto\n"));
    assert_non_null(
        strstr(buf_cstr(&text),
               "# Several.\n# Lines.\n# Takes: a comma list, at most 63 bytes.\n# Default: "
               "not set.\n#list =\n"));
    assert_int_equal(parse_n(text.data, text.len, &o, &e), 0);
    struct str rest = buf_str(&text);
    struct str line;
    while (str_split(&rest, '\n', &line)) {
        bool key = line.n > 1 && line.p[0] == '#' && line.p[1] != ' ';
        buf_addstr(&all, key ? str_slice(line, 1, SIZE_MAX) : line);
        buf_addc(&all, '\n');
    }
    struct conf_seen seen = { 0 };
    conf_defaults(&table, &want);
    conf_defaults(&table, &o);
    if (conf_parse(&table, "example", buf_str(&all), &o, &seen, &e) != 0) {
        fail_msg("%s", err_text(&e));
    }
    for (size_t i = 0; i < table.keys_len; i++) {
        assert_true(seen.line[i] != 0);
        assert_true(conf_equal(&keys[i], &o, &want));
    }
}

static void no_memory_anywhere(void **state)
{
    long n = 0;
    int r;
    (void)state;
    do {
        struct object o;
        struct err e = { 0 };
        mem_fail_after(n++, 1);
        r = parse_n("[first]\nname = x\n", 17, &o, &e);
        mem_fail_after(-1, 0);
        assert_true(r == 0 || r == -ENOMEM);
    } while (r != 0);
    assert_true(n > 1);
    /* Messages come out without memory, if shorter. */
    struct object o;
    struct err e = { 0 };
    struct conf_seen seen = { 0 };
    conf_defaults(&table, &o);
    mem_fail_after(0, 1);
    r = conf_parse(&table, "t.conf", STR("[second]\nflag = x"), &o, &seen, &e);
    mem_fail_after(-1, 0);
    assert_int_equal(r, -EINVAL);
    assert_non_null(strstr(err_text(&e), "t.conf:2: second.flag: 'x' is not allowed"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values),
        cmocka_unit_test(messages),
        cmocka_unit_test(hostile_files),
        cmocka_unit_test(overrides),
        cmocka_unit_test(printing),
        cmocka_unit_test(example),
        cmocka_unit_test(no_memory_anywhere),
    };
    return cmocka_run_group_tests_name("conf", tests, NULL, NULL);
}
