/* msgpack: skipping ends, within the bytes; what reads as a number or text skips as one too. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "agent/gossip/gossip_wire.h"
#include "common/insist.h"
#include "common/msgpack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void messages(const uint8_t *data, size_t size)
{
    for (unsigned type = 0; type <= GOSSIP_ERROR; type++) {
        struct gossip_msg m, again;
        AUTO_BUF struct buf b = BUF_INIT(1 << 20);
        struct cur c;
        cur_init(&c, data, size);
        if (!gossip_msg_read(&c, (enum gossip_type)type, &m)) {
            continue;
        }
        /* What we write of it reads back the same. */
        gossip_msg_write(&b, (enum gossip_type)type, &m);
        cur_init(&c, b.data + 1, b.len - 1);
        INSIST(gossip_msg_read(&c, (enum gossip_type)type, &again) && cur_done(&c));
        INSIST(again.seq == m.seq && again.incarnation == m.incarnation &&
               str_eq(again.node, m.node) && str_eq(again.meta, m.meta));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cur skip, c;
    uint8_t scratch[16];

    cur_init(&skip, data, size);
    msgpack_skip(&skip);
    INSIST(skip.p <= skip.end);
    cur_init(&c, data, size);
    (void)msgpack_uint(&c, UINT32_MAX);
    INSIST(!cur_ok(&c) || c.p == skip.p);
    cur_init(&c, data, size);
    (void)msgpack_bytes(&c);
    INSIST(!cur_ok(&c) || c.p == skip.p);
    cur_init(&c, data, size);
    (void)msgpack_bytes_or_array(&c, scratch, sizeof(scratch));
    INSIST(!cur_ok(&c) || c.p == skip.p);
    messages(data, size);
    return 0;
}
