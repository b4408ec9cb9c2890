#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cur.h"
#include "common/err.h"
#include "common/heap.h"
#include "common/insist.h"
#include "common/json.h"
#include "common/mem.h"
#include "common/rng.h"

/* --- err --- */

static void err_sentences(void **state)
{
    struct err e = { 0 };
    (void)state;
    assert_string_equal(err_text(NULL), "");
    assert_string_equal(err_text(&e), "");
    assert_int_equal(err_set(&e, -ENOENT, "open '%s'", "x"), -ENOENT);
    assert_string_equal(err_text(&e), "open 'x': No such file or directory");
    assert_int_equal(err_prefix(&e, "job %d", 7), -ENOENT);
    assert_string_equal(err_text(&e), "job 7: open 'x': No such file or directory");
    assert_int_equal(err_say(&e, -EINVAL, "%d is odd", 3), -EINVAL);
    assert_string_equal(err_text(&e), "3 is odd");
    assert_int_equal(err_set(NULL, -EIO, "nobody listens"), -EIO);
    assert_int_equal(err_prefix(NULL, "x"), 0);
    assert_int_equal(err_set(&e, -99999, "odd code"), -99999);
    assert_string_equal(err_text(&e), "odd code");
}

static void err_is_cut_not_overrun(void **state)
{
    char long_text[2 * ERR_TEXT_MAX];
    struct err e;
    (void)state;
    memset(long_text, 'a', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    err_set(&e, -EIO, "%s", long_text);
    assert_int_equal(strlen(e.text), ERR_TEXT_MAX - 1);
    err_prefix(&e, "%s", long_text);
    assert_int_equal(strlen(e.text), ERR_TEXT_MAX - 1);
    assert_int_equal(e.code, -EIO);
}

static void err_names(void **state)
{
    (void)state;
    assert_string_equal(err_name(ENOENT), "ENOENT");
    assert_string_equal(err_name(-EAGAIN), "EAGAIN");
    assert_string_equal(err_name(99999), "E?");
}

/* --- mem --- */

static void mem_faults_come_when_told(void **state)
{
    (void)state;
    mem_fail_after(1, 0);
    void *a = mem_alloc(8);
    void *b = mem_alloc(8);
    void *c = mem_alloc(8);
    assert_int_equal(mem_fail_count(), 2); /* one fault, then unarmed */
    assert_non_null(a);
    assert_null(b);
    assert_non_null(c);
    mem_fail_after(0, 1);
    assert_null(mem_realloc(a, 100));
    assert_null(mem_strdup("x"));
    assert_int_equal(mem_fail_count(), 2);
    mem_fail_after(-1, 0);
    mem_free(a);
    mem_free(c);
    assert_null(mem_free(NULL));
}

static void mem_edges(void **state)
{
    (void)state;
    AUTO_MEM void *none = mem_alloc(0);
    AUTO_MEM char *zero = mem_zalloc(0);
    AUTO_MEM char *text = mem_strndup("abcdef", 3);
    AUTO_MEM char *all = mem_strdup("xyz");
    size_t many = SIZE_MAX / 2;
    __asm__("" : "+r"(many)); /* hidden from the compiler, which would warn */
    assert_null(mem_calloc(many, 3));
    assert_null(mem_strndup("x", SIZE_MAX));
    assert_non_null(none);
    assert_non_null(zero);
    assert_string_equal(text, "abc");
    char *mine = TAKE(all);
    assert_null(all);
    assert_string_equal(mine, "xyz");
    mem_free(mine);
}

/* --- cur --- */

static void cur_reads_both_orders(void **state)
{
    static const uint8_t bytes[] = { 1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14,  15,
                                     16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 'a', 'b' };
    struct cur c;
    (void)state;
    cur_init(&c, bytes, sizeof bytes);
    assert_int_equal(cur_le16(&c), 0x0201);
    assert_int_equal(cur_be16(&c), 0x0304);
    assert_int_equal(cur_le32(&c), 0x08070605);
    assert_int_equal(cur_be32(&c), 0x090a0b0c);
    assert_true(cur_le64(&c) == 0x14131211100f0e0dU);
    assert_true(cur_be64(&c) == 0x15161718191a1b1cU);
    assert_false(cur_done(&c));
    struct str s = cur_bytes(&c, 2);
    assert_true(str_eqs(s, "ab"));
    assert_true(cur_done(&c));
    assert_int_equal(cur_u8(&c), 0);
    assert_false(cur_ok(&c));
}

static void cur_failure_sticks(void **state)
{
    static const uint8_t bytes[] = { 1, 2, 3 };
    uint8_t copy[4] = { 9, 9, 9, 9 };
    struct cur c;
    (void)state;
    cur_init(&c, bytes, sizeof bytes);
    cur_copy(&c, copy, 4);
    assert_int_equal(copy[0] | copy[3], 0);
    assert_false(cur_ok(&c));
    assert_int_equal(cur_u8(&c), 0); /* not 1: what follows a failure is nonsense */
    assert_int_equal(cur_bytes(&c, 1).n, 0);
    cur_init(&c, NULL, 0);
    assert_true(cur_done(&c));
    cur_skip(&c, SIZE_MAX);
    assert_false(cur_ok(&c));
    cur_init(&c, bytes, 3);
    cur_skip(&c, 2);
    cur_copy(&c, copy, 1);
    assert_int_equal(copy[0], 3);
    assert_true(cur_done(&c));
}

/* --- rng --- */

static void rng_repeats_and_spreads(void **state)
{
    struct rng a;
    struct rng b;
    unsigned hits[7] = { 0 };
    (void)state;
    rng_init(&a, 42);
    rng_init(&b, 42);
    /* Pinned: simulations must repeat across versions, compilers and machines. */
    assert_true(rng_u64(&a) == 0x15780b2e0c2ec716U);
    (void)rng_u64(&b);
    for (int i = 0; i < 70000; i++) {
        uint64_t v = rng_below(&a, 7);
        assert_true(v == rng_below(&b, 7));
        assert_true(v < 7);
        hits[v]++;
    }
    for (int i = 0; i < 7; i++) {
        assert_in_range(hits[i], 9500, 10500);
    }
    for (int i = 0; i < 1000; i++) {
        double d = rng_unit(&a);
        assert_true(d >= 0 && d < 1);
        assert_int_equal(rng_below(&a, 1), 0);
    }
}

/* --- insist --- */

/* Runs fn in a child; it must abort, and say where. */
static void dies(void (*fn)(void), const char *message)
{
    int out[2];
    char text[512] = "";
    size_t n = 0;
    ssize_t got;
    int status;
    assert_int_equal(pipe(out), 0);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGABRT, SIG_DFL);
        dup2(out[1], STDERR_FILENO);
        fn();
        _exit(0);
    }
    close(out[1]);
    while (n < sizeof text - 1 && (got = read(out[0], text + n, sizeof text - 1 - n)) > 0) {
        n += (size_t)got;
    }
    close(out[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    if (strstr(text, message) == NULL) {
        fail_msg("got '%s', want '%s'", text, message);
    }
}

static void consume_too_much(void)
{
    AUTO_BUF struct buf b = BUF_INIT(10);
    buf_consume(&b, 1);
}

static void value_without_key(void)
{
    AUTO_BUF struct buf b = BUF_INIT(100);
    struct json_w w;
    json_w_init(&w, &b, false);
    json_w_obj(&w);
    json_w_int(&w, 1);
}

static void key_without_value(void)
{
    AUTO_BUF struct buf b = BUF_INIT(100);
    struct json_w w;
    json_w_init(&w, &b, false);
    json_w_obj(&w);
    json_w_key(&w, "a");
    json_w_end(&w);
}

static void end_without_begin(void)
{
    AUTO_BUF struct buf b = BUF_INIT(100);
    struct json_w w;
    json_w_init(&w, &b, false);
    json_w_end(&w);
}

static void two_documents(void)
{
    AUTO_BUF struct buf b = BUF_INIT(100);
    struct json_w w;
    json_w_init(&w, &b, false);
    json_w_arr(&w);
    json_w_end(&w);
    json_w_null(&w);
}

static void pushed_twice(void)
{
    struct heap h;
    struct heap_node n;
    heap_init(&h, 9);
    heap_node_init(&n);
    (void)heap_push(&h, &n, 1);
    (void)heap_push(&h, &n, 1);
}

static void failed_by_us(void)
{
    INSIST(1 + 1 == 3);
}

static void asserts_stay_on_and_name_the_place(void **state)
{
    (void)state;
    dies(consume_too_much, "common/buf.c:");
    dies(consume_too_much, "REQUIRE(n <= b->len) failed");
    dies(value_without_key, "common/json_write.c:");
    dies(key_without_value, "common/json_write.c:");
    dies(end_without_begin, "INSIST(w->depth > 0) failed");
    dies(two_documents, "common/json_write.c:");
    dies(pushed_twice, "REQUIRE(n->index == SIZE_MAX) failed");
    dies(failed_by_us, "INSIST(1 + 1 == 3) failed");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(err_sentences),
        cmocka_unit_test(err_is_cut_not_overrun),
        cmocka_unit_test(err_names),
        cmocka_unit_test(mem_faults_come_when_told),
        cmocka_unit_test(mem_edges),
        cmocka_unit_test(cur_reads_both_orders),
        cmocka_unit_test(cur_failure_sticks),
        cmocka_unit_test(rng_repeats_and_spreads),
        cmocka_unit_test(asserts_stay_on_and_name_the_place),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
