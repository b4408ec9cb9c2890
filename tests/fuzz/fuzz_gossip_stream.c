/* A stream, whole and in pieces: both ways tell the same. What comes out goes into a node. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "agent/gossip/gossip_internal.h"
#include "agent/gossip/gossip_layers.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void into_node(struct str msg)
{
    struct gossip_pool *pool = gossip_pool_new(1, 2);
    struct gossip *g = NULL;
    struct err e;
    struct gossip_effects fx;
    struct gossip_config c = { .name = "n1",
                               .addr = { .ip = { 127, 0, 0, 11 }, .len = 4, .port = 7946 },
                               .vsn = { 1, 5, 2, 0, 0, 0 },
                               .now_ms = 1000,
                               .members_max = 16,
                               .pool = pool };
    struct gossip_event ev = { .type = GOSSIP_EV_STREAM, .now_ms = 1000, .bytes = msg };
    unsigned answers = 0;

    gossip_params_for(GOSSIP_LAN, &c.params);
    INSIST(gossip_new(&c, &g, &e) == 0);
    INSIST(gossip_step(g, &ev, &fx) == 0);
    for (size_t i = 0; i < fx.len; i++) {
        answers += fx.v[i].type == GOSSIP_FX_ANSWER || fx.v[i].type == GOSSIP_FX_CLOSE;
    }
    INSIST(answers == 1 && gossip_known(g) <= 16);
    gossip_free(g);
    gossip_pool_free(pool);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t nonce[GOSSIP_NONCE_PREFIX];
    struct gossip_layers l;
    struct gossip_reader whole = { .dialler = false };
    struct gossip_reader pieces = { .dialler = false };
    enum gossip_peel rc = GOSSIP_PEEL_MORE;
    struct str got = { NULL, 0 };
    struct str again = { NULL, 0 };

    if (size < 2 || size > 1 << 16) {
        return 0;
    }
    gossip_layers_init(&l, (data[0] & 1) != 0 ? STR("lab") : STR(""), NULL, nonce);
    struct str in = { (const char *)data + 2, size - 2 };
    size_t step = data[1] + 1U;
    for (size_t n = step; n < in.n && rc == GOSSIP_PEEL_MORE; n += step) {
        rc = gossip_peel_stream(&l, &pieces, str_slice(in, 0, n), &again);
    }
    if (rc == GOSSIP_PEEL_MORE) {
        rc = gossip_peel_stream(&l, &pieces, in, &again);
    }
    size_t n = again.n;
    enum gossip_peel at_once = gossip_peel_stream(&l, &whole, in, &got);
    INSIST((at_once == GOSSIP_PEEL_OK) == (rc == GOSSIP_PEEL_OK));
    if (at_once == GOSSIP_PEEL_OK) {
        INSIST(got.n >= n);
        into_node(got);
    }
    gossip_layers_release(&l);
    return 0;
}
