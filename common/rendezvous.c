#include "common/rendezvous.h"

#include <stdbool.h>

#include "common/map.h"

uint64_t rendezvous_key(struct str key)
{
    return map_hash(0x72656e64657a766f, 0x75732d6b65792d31, key.p, key.n);
}

/* The finisher of splitmix64: every bit of the input reaches every bit of the result. */
uint64_t rendezvous_weight(uint64_t key, uint32_t node)
{
    uint64_t z = key ^ ((uint64_t)node + 1) * UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static bool before(uint64_t key, uint32_t a, uint32_t b)
{
    uint64_t wa = rendezvous_weight(key, a);
    uint64_t wb = rendezvous_weight(key, b);

    return wa != wb ? wa > wb : a < b;
}

size_t rendezvous_pick(uint64_t key, const uint32_t *nodes, size_t n, uint32_t *ret, size_t want)
{
    size_t have = 0;

    for (size_t i = 0; i < n; i++) {
        size_t at = have;
        while (at > 0 && before(key, nodes[i], ret[at - 1])) {
            at--;
        }
        if (at == want) {
            continue;
        }
        size_t last = have < want ? have++ : have - 1;
        for (size_t k = last; k > at; k--) {
            ret[k] = ret[k - 1];
        }
        ret[at] = nodes[i];
    }
    return have;
}
