/* LZW: what unpacks stays within its cap; what was packed comes back. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "agent/gossip/gossip_wire.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    AUTO_BUF struct buf out = BUF_INIT(1 << 20);
    AUTO_BUF struct buf packed = BUF_INIT(1 << 22);
    struct str in = { (const char *)data, size };
    int rc = gossip_lzw_unpack(in, 1 << 16, &out);

    INSIST(out.len <= 1 << 16);
    INSIST(rc == 0 || rc == -EBADMSG || rc == -EFBIG);
    buf_reset(&out);
    INSIST(gossip_lzw_pack(in, &packed) == 0);
    INSIST(gossip_lzw_unpack(buf_str(&packed), size, &out) == 0);
    INSIST(str_eq(buf_str(&out), in));
    return 0;
}
