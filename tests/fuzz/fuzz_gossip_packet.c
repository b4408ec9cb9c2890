/* Datagrams into a node that knows some members: many from one input, each with its length before
 * it. Whatever comes, the node itself stays alive and its caps hold. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "agent/gossip/gossip_internal.h"
#include "agent/gossip/gossip_layers.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct gossip *node(struct gossip_pool *pool)
{
    struct gossip *g = NULL;
    struct err e;
    struct gossip_config c = { .name = "me",
                               .addr = { .ip = { 10, 0, 0, 1 }, .len = 4, .port = 7946 },
                               .vsn = { 1, 5, 2, 0, 0, 0 },
                               .seed = 1,
                               .now_ms = 1000,
                               .members_max = 16,
                               .pool = pool };
    gossip_params_for(GOSSIP_LAN, &c.params);
    INSIST(gossip_new(&c, &g, &e) == 0);
    return g;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t nonce[GOSSIP_NONCE_PREFIX];
    struct gossip_pool *pool = gossip_pool_new(1, 2);
    struct gossip *g = node(pool);
    struct gossip_layers l;
    struct gossip_effects fx;
    struct gossip_view self;
    struct cur c;
    uint64_t now = 1000;

    gossip_layers_init(&l, STR(""), NULL, nonce);
    cur_init(&c, data, size);
    while (cur_left(&c) > 2) {
        uint8_t how = cur_u8(&c);
        size_t n = cur_u8(&c);
        struct str in = cur_bytes(&c, n < cur_left(&c) ? n : cur_left(&c));
        struct gossip_event ev = { .type = how < 200 ? GOSSIP_EV_PACKET : GOSSIP_EV_TICK,
                                   .from = { .ip = { 10, 0, 0, how }, .len = 4, .port = 7946 } };
        now += how >= 200 ? how * 10U : 1U;
        ev.now_ms = now;
        if (ev.type == GOSSIP_EV_TICK || gossip_peel_packet(&l, in, &ev.bytes) == GOSSIP_PEEL_OK) {
            INSIST(gossip_step(g, &ev, &fx) == 0);
        }
        INSIST(gossip_find(g, STR("me"), &self) && self.state == GOSSIP_ALIVE);
        INSIST(gossip_known(g) <= 16 && gossip_queued(g) <= 16);
    }
    gossip_layers_release(&l);
    gossip_free(g);
    gossip_pool_free(pool);
    return 0;
}
