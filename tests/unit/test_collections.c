#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/heap.h"
#include "common/insist.h"
#include "common/list.h"
#include "common/map.h"
#include "common/mem.h"
#include "common/rng.h"
#include "tests/lib/seed.h"

struct item {
    struct list link;
    struct heap_node node;
    char key[24];
    uint64_t when;
    bool in;
};

static void lists(void **state)
{
    struct list head;
    struct item items[3];
    char order[8] = "";
    (void)state;
    list_init(&head);
    assert_true(list_empty(&head));
    for (size_t i = 0; i < 3; i++) {
        items[i].key[0] = (char)('a' + i);
        list_init(&items[i].link);
    }
    list_push_back(&head, &items[1].link);
    list_push_back(&head, &items[2].link);
    list_push_front(&head, &items[0].link);
    size_t n = 0;
    LIST_EACH (l, &head) {
        order[n++] = LIST_ITEM(l, struct item, link)->key[0];
    }
    assert_string_equal(order, "abc");
    LIST_EACH_SAFE (l, &head) {
        list_remove(l);
        list_remove(l); /* harmless */
    }
    assert_true(list_empty(&head));
}

static void heap_orders_ties_by_insertion(void **state)
{
    struct heap h;
    struct item items[64];
    (void)state;
    heap_init(&h, 64);
    assert_null(heap_min(&h));
    for (size_t i = 0; i < 64; i++) {
        heap_node_init(&items[i].node);
        assert_int_equal(heap_push(&h, &items[i].node, i % 4), 0);
    }
    struct heap_node extra;
    heap_node_init(&extra);
    assert_int_equal(heap_push(&h, &extra, 0), -ENOBUFS);
    heap_remove(&h, &extra); /* in no heap: nothing happens */
    for (uint64_t key = 0; key < 4; key++) {
        for (size_t i = 0; i < 16; i++) {
            struct heap_node *n = heap_min(&h);
            assert_ptr_equal(n, &items[4 * i + key].node);
            heap_remove(&h, n);
        }
    }
    assert_null(heap_min(&h));
    heap_release(&h);
}

/* Against a plain array: the least (key, order) is what heap_min() says, whatever was done before.
 */
static void heap_against_a_model(void **state)
{
    enum { N = 200 };
    static struct item items[N];
    uint64_t stamp[N] = { 0 };
    uint64_t next = 1;
    struct heap h;
    struct rng r;
    (void)state;
    rng_init(&r, test_seed("heap_against_a_model"));
    heap_init(&h, N);
    for (size_t i = 0; i < N; i++) {
        heap_node_init(&items[i].node);
        items[i].in = false;
    }
    for (int step = 0; step < 20000; step++) {
        size_t i = (size_t)rng_below(&r, N);
        uint64_t key = rng_below(&r, 50);
        if (!items[i].in) {
            assert_int_equal(heap_push(&h, &items[i].node, key), 0);
            items[i].in = true;
        } else if (rng_below(&r, 2) == 0) {
            heap_update(&h, &items[i].node, key);
        } else {
            heap_remove(&h, &items[i].node);
            items[i].in = false;
            continue;
        }
        items[i].when = key;
        stamp[i] = next++;
        size_t best = N;
        size_t count = 0;
        for (size_t k = 0; k < N; k++) {
            count += items[k].in;
            if (items[k].in && (best == N || items[k].when < items[best].when ||
                                (items[k].when == items[best].when && stamp[k] < stamp[best]))) {
                best = k;
            }
        }
        assert_int_equal(count, h.len);
        assert_ptr_equal(heap_min(&h), &items[best].node);
    }
    heap_release(&h);
}

static void sip_vectors(void **state)
{
    /* SipHash-1-3 of "" and 00, 0001, … with key 00..0f: the reference's first values. */
    uint8_t in[16];
    (void)state;
    for (size_t i = 0; i < sizeof in; i++) {
        in[i] = (uint8_t)i;
    }
    uint64_t k0 = 0x0706050403020100U;
    uint64_t k1 = 0x0f0e0d0c0b0a0908U;
    assert_true(map_hash(k0, k1, in, 0) == 0xabac0158050fc4dcU);
    assert_true(map_hash(k0, k1, in, 1) == 0xc9f49bf37d57ca93U);
    assert_true(map_hash(k0, k1, in, 8) != map_hash(k0, k1, in, 9));
    assert_true(map_hash(k0, k1, in, 8) != map_hash(k0, k1 + 1, in, 8));
}

static void map_basics(void **state)
{
    struct map m;
    int a;
    int b;
    (void)state;
    map_init(&m, 2, 1, 2);
    assert_null(map_get(&m, STR("x")));
    assert_null(map_remove(&m, STR("x")));
    assert_int_equal(map_add(&m, STR("x"), &a), 0);
    assert_int_equal(map_add(&m, STR("x"), &b), -EEXIST);
    assert_int_equal(map_add(&m, STR(""), &b), 0); /* an empty key is a key */
    assert_int_equal(map_add(&m, STR("z"), &b), -ENOBUFS);
    assert_int_equal(map_add(&m, STR("x"), &b), -EEXIST);
    assert_ptr_equal(map_get(&m, STR("x")), &a);
    assert_ptr_equal(map_get(&m, STR("")), &b);
    size_t i = 0;
    size_t seen = 0;
    while (map_next(&m, &i) != NULL) {
        seen++;
    }
    assert_int_equal(seen, 2);
    assert_ptr_equal(map_remove(&m, STR("x")), &a);
    assert_null(map_get(&m, STR("x")));
    map_release(&m);
    assert_int_equal(m.len, 0);
}

static void map_against_a_model(void **state)
{
    enum { N = 500 };
    static struct item items[N];
    struct map m;
    struct rng r;
    size_t count = 0;
    (void)state;
    uint64_t seed = test_seed("map_against_a_model");
    rng_init(&r, seed);
    map_init(&m, N, seed, ~seed);
    for (size_t i = 0; i < N; i++) {
        (void)snprintf(items[i].key, sizeof items[i].key, "key-%zu", i);
        items[i].in = false;
    }
    for (int step = 0; step < 50000; step++) {
        struct item *it = &items[rng_below(&r, N)];
        struct str key = str_of(it->key);
        assert_ptr_equal(map_get(&m, key), it->in ? it : NULL);
        if (rng_below(&r, 2) == 0) {
            assert_int_equal(map_add(&m, key, it), it->in ? -EEXIST : 0);
            count += !it->in;
            it->in = true;
        } else {
            assert_ptr_equal(map_remove(&m, key), it->in ? it : NULL);
            count -= it->in;
            it->in = false;
        }
        assert_int_equal(m.len, count);
    }
    for (size_t i = 0; i < N; i++) {
        assert_ptr_equal(map_get(&m, str_of(items[i].key)), items[i].in ? &items[i] : NULL);
    }
    map_release(&m);
}

static void no_memory_anywhere(void **state)
{
    enum { N = 100 };
    static struct item items[N];
    long n = 0;
    bool whole;
    (void)state;
    for (size_t i = 0; i < N; i++) {
        (void)snprintf(items[i].key, sizeof items[i].key, "%zu", i);
    }
    do {
        struct map m;
        struct heap h;
        map_init(&m, N, 3, 4);
        heap_init(&h, N);
        mem_fail_after(n++, 0);
        whole = true;
        for (size_t i = 0; i < N; i++) {
            heap_node_init(&items[i].node);
            int r = map_add(&m, str_of(items[i].key), &items[i]);
            assert_true(r == 0 || r == -ENOMEM);
            int q = heap_push(&h, &items[i].node, i);
            assert_true(q == 0 || q == -ENOMEM);
            whole = whole && r == 0 && q == 0;
            /* What failed is not there; all others are. */
            assert_ptr_equal(map_get(&m, str_of(items[i].key)), r == 0 ? &items[i] : NULL);
            assert_int_equal(items[i].node.index == SIZE_MAX, q != 0);
        }
        mem_fail_after(-1, 0);
        map_release(&m);
        heap_release(&h);
    } while (!whole);
    assert_true(n > 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists),
        cmocka_unit_test(heap_orders_ties_by_insertion),
        cmocka_unit_test(heap_against_a_model),
        cmocka_unit_test(sip_vectors),
        cmocka_unit_test(map_basics),
        cmocka_unit_test(map_against_a_model),
        cmocka_unit_test(no_memory_anywhere),
    };
    return cmocka_run_group_tests_name("collections", tests, NULL, NULL);
}
