/* Many nodes' answers as one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "agent/api/api_merge.h"
#include "common/insist.h"

enum { PARTS_MAX = 4 };

struct world {
    struct api_part parts[PARTS_MAX];
    struct json_doc *docs[PARTS_MAX];
    size_t n;
    struct buf out;
    struct json_doc *merged;
};

static void add(struct world *w, const char *node, const char *text)
{
    struct api_part *p = &w->parts[w->n];

    *p = (struct api_part){ node, "unreachable", "10.0.0.1:1", NULL };
    if (text != NULL) {
        assert_int_equal(json_parse(text, strlen(text), NULL, &w->docs[w->n], NULL), 0);
        p->root = json_root(w->docs[w->n]);
    }
    w->n++;
}

static const struct json *merged(struct world *w)
{
    assert_int_equal(buf_error(&w->out), 0);
    assert_int_equal(json_parse(w->out.data, w->out.len, NULL, &w->merged, NULL), 0);
    return json_root(w->merged);
}

static void end(struct world *w)
{
    for (size_t i = 0; i < w->n; i++) {
        json_free(w->docs[i]);
    }
    json_free(w->merged);
    buf_release(&w->out);
}

static int64_t number(const struct json *v)
{
    int64_t i = -1;

    assert_true(json_int(v, &i));
    return i;
}

static void is(const struct json *v, const char *text)
{
    struct str s;

    assert_true(json_str(v, &s));
    assert_string_equal(s.p, text);
}

static void runs_are_one_sorted_list(void **state)
{
    struct world w = { .out = BUF_INIT(1 << 20) };

    (void)state;
    add(&w, "a", "{\"runs\":[{\"id\":\"9\"},{\"id\":\"5\"},{\"id\":\"1\"}],\"next\":null}");
    add(&w, "b", "{\"runs\":[{\"id\":\"8\",\"x\":[1,{\"y\":2}]},{\"id\":\"4\"}],\"next\":\"4\"}");
    add(&w, "c", NULL);
    add(&w, "d", "{\"runs\":[],\"next\":null}");
    api_merge_runs(&w.out, w.parts, w.n, 4);
    const struct json *r = merged(&w);
    static const char *const want[] = { "9", "8", "5", "4" };
    const struct json *runs = json_get(r, "runs");
    assert_int_equal(runs->count, 4);
    for (size_t i = 0; i < 4; i++) {
        is(json_get(json_at(runs, i), "id"), want[i]);
    }
    assert_int_equal(number(json_get(json_at(json_get(json_at(runs, 1), "x"), 1), "y")), 2);
    is(json_get(r, "next"), "4");
    assert_int_equal(json_get(r, "partial")->count, 1);
    is(json_at(json_get(r, "partial"), 0), "c");
    end(&w);
}

static void the_last_page_has_no_cursor(void **state)
{
    struct world w = { .out = BUF_INIT(1 << 20) };

    (void)state;
    add(&w, "a", "{\"runs\":[{\"id\":\"9\"}],\"next\":null}");
    add(&w, "b", "{\"runs\":[{\"id\":\"8\"}],\"next\":null}");
    api_merge_runs(&w.out, w.parts, w.n, 2);
    assert_int_equal(json_get(merged(&w), "next")->type, JSON_NULL);
    end(&w);
}

static void counts_add_up_and_the_rest_is_said_once(void **state)
{
    struct world w = { .out = BUF_INIT(1 << 20) };

    (void)state;
    add(&w, "a",
        "{\"cluster\":{\"nodes\":1,\"version\":\"1\",\"insecure\":false},"
        "\"nodes\":[{\"name\":\"a\"}],\"runs\":{\"queued\":1,\"failed\":2},"
        "\"jobs\":[{\"name\":\"j\",\"revision\":null,\"image\":null,\"failed\":2,"
        "\"last_run\":\"2026-01-01\"}],\"failures\":[{\"id\":\"5\"}],\"store\":{\"bytes\":10},"
        "\"images\":{\"count\":1},\"warnings\":[\"hot\"]}");
    add(&w, "b",
        "{\"nodes\":[{\"name\":\"b\"}],\"runs\":{\"queued\":4,\"failed\":0},"
        "\"jobs\":[{\"name\":\"j\",\"revision\":7,\"image\":\"i:1\",\"failed\":3,"
        "\"last_run\":\"2026-02-02\"},{\"name\":\"k\",\"failed\":1}],"
        "\"failures\":[{\"id\":\"7\"}],\"store\":{\"bytes\":5},\"warnings\":[\"cold\"]}");
    add(&w, "c", NULL);
    api_merge_status(&w.out, w.parts, w.n);
    const struct json *r = merged(&w);
    assert_int_equal(number(json_get(json_get(r, "cluster"), "nodes")), 3);
    assert_int_equal(number(json_get(json_get(r, "cluster"), "answered")), 2);
    is(json_get(json_get(r, "cluster"), "version"), "1");
    assert_int_equal(number(json_get(json_get(r, "runs"), "queued")), 5);
    const struct json *jobs = json_get(r, "jobs");
    assert_int_equal(jobs->count, 2);
    assert_int_equal(number(json_get(json_at(jobs, 0), "failed")), 5);
    assert_int_equal(number(json_get(json_at(jobs, 0), "revision")), 7);
    is(json_get(json_at(jobs, 0), "image"), "i:1");
    is(json_get(json_at(jobs, 0), "last_run"), "2026-02-02");
    is(json_get(json_at(jobs, 1), "name"), "k");
    is(json_get(json_at(json_get(r, "failures"), 0), "id"), "7");
    assert_int_equal(number(json_get(json_get(r, "store"), "bytes")), 15);
    assert_int_equal(json_get(r, "nodes")->count, 3);
    is(json_get(json_at(json_get(r, "nodes"), 2), "state"), "unreachable");
    is(json_at(json_get(r, "warnings"), 1), "b: cold");
    is(json_at(json_get(r, "partial"), 0), "c");
    end(&w);
}

/* Whatever a node says, the answer is JSON. */
static void nonsense_is_passed_over(void **state)
{
    static const char *const texts[] = {
        "null",
        "[]",
        "{\"runs\":5,\"jobs\":{},\"nodes\":\"x\",\"failures\":[1,\"a\",null]}",
        "{\"runs\":[5,{\"id\":7},null],\"next\":3,\"warnings\":[{}]}",
        "{\"jobs\":[null,{\"name\":5,\"failed\":\"x\"},{\"name\":\"j\",\"failed\":-9}]}",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct world w = { .out = BUF_INIT(1 << 20) };
        add(&w, "a", "{\"jobs\":[{\"name\":\"j\",\"failed\":9223372036854775807}],\"runs\":{}}");
        add(&w, "b", texts[i]);
        api_merge_status(&w.out, w.parts, w.n);
        (void)merged(&w);
        w.merged = json_free(w.merged);
        buf_reset(&w.out);
        api_merge_runs(&w.out, w.parts, w.n, 10);
        (void)merged(&w);
        w.merged = json_free(w.merged);
        buf_reset(&w.out);
        api_merge_nodes(&w.out, w.parts, w.n);
        (void)merged(&w);
        end(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_are_one_sorted_list),
        cmocka_unit_test(the_last_page_has_no_cursor),
        cmocka_unit_test(counts_add_up_and_the_rest_is_said_once),
        cmocka_unit_test(nonsense_is_passed_over),
    };

    return cmocka_run_group_tests_name("api_merge", tests, NULL, NULL);
}
