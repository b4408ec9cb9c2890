/*
 * rendezvous - who of the living looks after a key: highest random weight (Thaler and Ravishankar,
 * 1998). Every node that knows the same members picks the same ones in the same order, and when a
 * member goes only its keys move. The weights are the same in every version: they are part of what
 * nodes agree on.
 */
#ifndef COMMON_RENDEZVOUS_H
#define COMMON_RENDEZVOUS_H

#include <stddef.h>
#include <stdint.h>

#include "common/str.h"

/* The key's hash; unkeyed on purpose. */
uint64_t rendezvous_key(struct str key);
/* How strongly a node is drawn to a key; ties are broken by the smaller id. */
uint64_t rendezvous_weight(uint64_t key, uint32_t node);
/* The first `want` of the n nodes in the key's order, into ret (room for want). Returns how many:
 * the smaller of both. Time grows with n * want: want is small. nodes hold no id twice. */
size_t rendezvous_pick(uint64_t key, const uint32_t *nodes, size_t n, uint32_t *ret, size_t want);

#endif
