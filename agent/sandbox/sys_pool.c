/*
 * Sandboxes built ahead. Each kind of run in use has a key: the spec that its sandboxes are built
 * from, without a run's own words. A free slot builds one when more of a kind are wanted than there
 * are; a run takes the one of its kind, or a slot without one, or has another kind's dropped.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/sandbox/sys_launcher.h"
#include "agent/sandbox/sys_nat.h"
#include "common/log.h"

static bool boxed(const struct slot *s)
{
    return s->state == SLOT_PREPARING || s->state == SLOT_READY;
}

static void key_release(struct launcher *l, struct box_key *k)
{
    for (uint32_t i = 0; i < l->slots_len; i++) {
        struct slot *s = &l->slots[i];
        if (s->key != k) {
            continue;
        }
        if (boxed(s)) {
            sandbox_slot_drop(s);
        }
        s->key = NULL;
    }
    k->fd = fd_close(k->fd);
    sandbox_spec_release(&k->spec);
    buf_release(&k->blob);
}

/* Without the run's arguments, environment and payload: those are nobody else's business. */
static int key_fill(struct box_key *k, const struct sandbox_spec *spec)
{
    static const char *const argv[] = { "-" };
    struct sandbox_spec bare = *spec;
    struct err e = { 0 };
    bare.argv = argv;
    bare.argv_len = 1;
    bare.env = NULL;
    bare.env_len = 0;
    bare.payload = false;
    bare.egress = (struct sandbox_egress){ .limited = false };
    buf_init(&k->blob, SANDBOX_SPEC_MAX);
    int rc = sandbox_spec_encode(&bare, &k->blob, &e);
    if (rc == 0) {
        rc = sandbox_spec_decode(k->blob.data, k->blob.len, &k->spec, &e);
    }
    k->fd = rc == 0 ? memfd_create("kind", MFD_CLOEXEC) : -1;
    rc = rc == 0 && k->fd < 0 ? -errno : rc;
    return rc == 0 ? sys_write_full(k->fd, k->blob.data, k->blob.len) : rc;
}

struct box_key *sandbox_pool_key(struct launcher *l, const struct sandbox_spec *spec)
{
    struct box_key *oldest = &l->keys[0];
    for (size_t i = 0; i < BOX_KEYS_MAX; i++) {
        struct box_key *k = &l->keys[i];
        if (k->fd >= 0 && sandbox_pool_same(&k->spec, spec)) {
            return k;
        }
        if (oldest->fd >= 0 && (k->fd < 0 || k->use.used_ms < oldest->use.used_ms)) {
            oldest = k;
        }
    }
    if (oldest->fd >= 0) {
        key_release(l, oldest);
    }
    *oldest = (struct box_key){ .fd = -1 };
    if (key_fill(oldest, spec) < 0) {
        key_release(l, oldest);
        return NULL;
    }
    return oldest;
}

struct slot *sandbox_pool_choose(struct launcher *l, const struct box_key *key, bool fresh)
{
    /* How good each state is for a run: the highest wins. */
    enum { NONE, OTHERS, SOON, DIRTY, EMPTY, FREE, FITTING, COMING, READY };
    bool nat = key->spec.limits.network == SANDBOX_NETWORK_NAT;
    struct slot *best = NULL;
    int worth = NONE;
    for (uint32_t i = 0; i < l->slots_len && worth < READY; i++) {
        struct slot *s = &l->slots[i];
        bool ours = s->key == key && !fresh;
        int w = s->state == SLOT_READY       ? (ours ? READY : OTHERS)
                : s->state == SLOT_PREPARING ? (ours ? COMING : OTHERS)
                : s->state == SLOT_FREE      ? (sandbox_nat_ready(s) == nat ? FITTING : FREE)
                : s->state == SLOT_EMPTY     ? EMPTY
                : s->state == SLOT_DIRTY     ? DIRTY
                /* The request waits in the spawner's socket for a moment. */
                : s->state == SLOT_MAKING || s->state == SLOT_CLEANING ? SOON
                                                                       : NONE;
        if (w > worth) {
            worth = w;
            best = s;
        }
    }
    if (worth == OTHERS) {
        sandbox_slot_drop(best);
        return NULL;
    }
    struct err e = { 0 };
    if (worth == DIRTY) {
        sandbox_slot_clean(best);
    }
    if (worth == EMPTY && sandbox_slot_make(best, &e) < 0) {
        log_error("slot %u: %s", best->box.slot, e.text);
        return NULL;
    }
    return best;
}

static uint32_t boxes_of(const struct launcher *l, const struct box_key *k)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < l->slots_len; i++) {
        n += boxed(&l->slots[i]) && (k == NULL || l->slots[i].key == k) ? 1 : 0;
    }
    return n;
}

/* The kind that lacks most. */
static struct box_key *key_wanted(struct launcher *l, uint64_t now)
{
    struct box_key *best = NULL;
    uint32_t most = 0;
    for (size_t i = 0; i < BOX_KEYS_MAX; i++) {
        struct box_key *k = &l->keys[i];
        uint32_t wanted =
            k->fd < 0 || now < k->bad_until_ms ? 0 : sandbox_pool_wanted(&k->use, now);
        uint32_t have = wanted == 0 ? 0 : boxes_of(l, k);
        if (wanted > have && wanted - have > most) {
            most = wanted - have;
            best = k;
        }
    }
    return best;
}

bool sandbox_pool_refill(struct launcher *l, bool busy)
{
    uint64_t now = sys_mono_ms();
    struct slot *s = NULL;
    for (uint32_t i = 0; i < l->slots_len && s == NULL; i++) {
        s = l->slots[i].state == SLOT_FREE ? &l->slots[i] : NULL;
    }
    if (s == NULL || l->pressed || l->stopping || !list_empty(&l->waiting) ||
        boxes_of(l, NULL) >= l->settings->sandbox.prepared) {
        return false;
    }
    struct err e = { 0 };
    struct box_key *k = key_wanted(l, now);
    if (busy && k != NULL && boxes_of(l, k) > 0) {
        return false;
    }
    if (k != NULL && sandbox_slot_build(s, k, NULL, &e) < 0) {
        log_warn("slot %u: build a sandbox ahead: %s", s->box.slot, e.text);
        k->bad_until_ms = now + POOL_BAD_MS;
    }
    return k != NULL;
}

void sandbox_pool_trim(struct launcher *l)
{
    struct buf AUTO_BUF text = BUF_INIT(16384);
    uint64_t now = sys_mono_ms();
    bool before = l->pressed;
    l->pressed = sys_read_file(AT_FDCWD, "/proc/meminfo", 16383, &text, NULL) == 0 &&
                 sandbox_pool_pressed(buf_str(&text));
    if (l->pressed && !before) {
        log_info("memory is short: no sandbox waits ready until there is more");
    }
    for (uint32_t i = 0; i < l->slots_len; i++) {
        struct slot *s = &l->slots[i];
        if (boxed(s) && (l->pressed || s->key == NULL ||
                         boxes_of(l, s->key) > sandbox_pool_wanted(&s->key->use, now))) {
            sandbox_slot_drop(s);
        }
    }
}

void sandbox_pool_forget_layer(struct launcher *l, const struct digest *id)
{
    for (size_t i = 0; i < BOX_KEYS_MAX; i++) {
        struct box_key *k = &l->keys[i];
        for (size_t j = 0; k->fd >= 0 && j < k->spec.layers_len; j++) {
            if (digest_eq(&k->spec.layers[j], id)) {
                key_release(l, k);
            }
        }
    }
}

void sandbox_pool_release(struct launcher *l)
{
    for (size_t i = 0; i < BOX_KEYS_MAX; i++) {
        if (l->keys[i].fd >= 0) {
            key_release(l, &l->keys[i]);
        }
    }
}
