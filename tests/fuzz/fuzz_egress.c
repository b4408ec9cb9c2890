/* One rule of an egress list: what is read is in range, matches what it should and, written as a
 * destination's bytes, is what the launcher accepts; a refusal says why. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "agent/sandbox/sandbox_internal.h"
#include "common/egress.h"
#include "common/insist.h"
#include "common/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void as_bytes(const struct egress_net *net)
{
    AUTO_BUF struct buf b = BUF_INIT(4096);
    const struct sandbox_egress g = { .limited = true, .nets = net, .nets_len = 1 };
    struct sandbox_egress again = { .limited = false };
    struct cur c;
    sandbox_egress_encode(&g, &b);
    cur_init(&c, b.data, b.len);
    INSIST(sandbox_egress_decode(&c, &again) == 0 && cur_done(&c));
    INSIST(sandbox_egress_check(&again, NULL) == 0 && again.nets_len == 1);
    INSIST(memcmp(again.nets[0].addr, net->addr, 16) == 0);
    union {
        const void *in;
        void *out;
    } nets = { .in = again.nets };
    mem_free(nets.out);
}

static void from_outside(const uint8_t *data, size_t size)
{
    struct sandbox_egress g = { .limited = false };
    struct cur c;
    cur_init(&c, data, size);
    if (sandbox_egress_decode(&c, &g) == 0 && cur_ok(&c)) {
        (void)sandbox_egress_check(&g, NULL);
    }
    union {
        const void *in;
        void *out;
    } nets = { .in = g.nets };
    mem_free(nets.out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str text = { (const char *)data, size };
    struct egress_rule r;
    struct err e = { .code = 0 };
    from_outside(data, size);
    if (egress_parse(text, &r, &e) != 0) {
        INSIST(e.code < 0 && e.text[0] != '\0' && strlen(e.text) < 160);
        return 0;
    }
    INSIST((r.net.port_first == 0) == (r.net.port_last == 0));
    INSIST(r.net.port_first <= r.net.port_last);
    if (r.net.kind == EGRESS_NAME) {
        size_t n = strlen(r.name);
        INSIST(n > 0 && n < EGRESS_NAME_CAP);
        INSIST(egress_name_matches(&r, str_of(r.name)) || r.name[0] == '*');
        return 0;
    }
    INSIST(egress_net_ok(&r.net));
    if (r.net.kind != EGRESS_ALL) {
        INSIST(egress_net_holds(&r.net, r.net.kind, r.net.addr));
    }
    as_bytes(&r.net);
    return 0;
}
