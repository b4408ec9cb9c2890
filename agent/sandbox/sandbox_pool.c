/*
 * What is worth keeping ready: which runs may share a prepared sandbox, and how many of each kind
 * are wanted. Pure.
 */
#include <string.h>

#include "agent/sandbox/sandbox_internal.h"

static bool text_same(const char *a, const char *b)
{
    return strcmp(a != NULL ? a : "", b != NULL ? b : "") == 0;
}

bool sandbox_pool_same(const struct sandbox_spec *a, const struct sandbox_spec *b)
{
    const struct sandbox_limits *x = &a->limits;
    const struct sandbox_limits *y = &b->limits;
    if (a->layers_len != b->layers_len || x->disk_bytes != y->disk_bytes ||
        x->disk_inodes != y->disk_inodes || x->shm_bytes != y->shm_bytes ||
        x->network != y->network || a->secrets != b->secrets || !text_same(a->user, b->user) ||
        !text_same(a->workdir, b->workdir)) {
        return false;
    }
    for (size_t i = 0; i < a->layers_len; i++) {
        if (!digest_eq(&a->layers[i], &b->layers[i])) {
            return false;
        }
    }
    return true;
}

static void pool_window(struct pool_use *u, uint64_t now_ms)
{
    if (now_ms - u->since_ms >= POOL_WINDOW_MS) {
        u->peak_before = now_ms - u->since_ms >= 2 * POOL_WINDOW_MS ? u->live : u->peak;
        u->peak = u->live;
        u->since_ms = now_ms;
    }
}

void sandbox_pool_begin(struct pool_use *u, uint64_t now_ms)
{
    pool_window(u, now_ms);
    if (now_ms - u->burst_ms >= POOL_BURST_MS) {
        u->burst_ms = now_ms;
        u->burst = 0;
    }
    u->live++;
    u->burst++;
    u->used_ms = now_ms;
    uint32_t load = u->live > u->burst ? u->live : u->burst;
    if (load > u->peak) {
        u->peak = load;
    }
}

void sandbox_pool_end(struct pool_use *u)
{
    u->live -= u->live > 0 ? 1 : 0;
}

uint32_t sandbox_pool_wanted(struct pool_use *u, uint64_t now_ms)
{
    pool_window(u, now_ms);
    if (u->used_ms == 0 || now_ms - u->used_ms >= POOL_IDLE_MS) {
        return 0;
    }
    return u->peak > u->peak_before ? u->peak : u->peak_before;
}

bool sandbox_pool_pressed(struct str meminfo)
{
    enum { SPARE_PART = 20 };
    uint64_t total = 0;
    uint64_t available = UINT64_MAX;
    struct str line;
    while (str_split(&meminfo, '\n', &line)) {
        struct str value = line;
        struct str name;
        if (!str_split(&value, ':', &name) || value.n < 3) {
            continue;
        }
        value = str_trim(str_slice(value, 0, value.n - 2)); /* kB */
        if (str_eqs(name, "MemTotal")) {
            (void)str_u64(value, &total);
        } else if (str_eqs(name, "MemAvailable")) {
            (void)str_u64(value, &available);
        }
    }
    return available < total / SPARE_PART;
}
