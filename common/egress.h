/*
 * egress - what a job may reach: the grammar of one rule of its `egress` list. Pure.
 *
 *     rule  = host [ ":" ports ] [ "/" ( "tcp" | "udp" ) ]
 *     host  = "*" | IPv4 [ "/" prefix ] | "[" IPv6 [ "/" prefix ] "]" | name | "*." name
 *     ports = port | port "-" port | "*"
 *
 *     10.0.0.0/8:5432   example.org:443   *.example.org:443   *:443   [2001:db8::/32]:80-89/tcp
 *
 * IPv6 without ports may stand without its brackets. Without ports (or with "*") every port is
 * meant and, unless "/tcp" or "/udp" says otherwise, every protocol; with ports TCP and UDP.
 * "*.name" is every name below it, not the name itself. Blanks are errors, upper case in names is
 * not.
 */
#ifndef COMMON_EGRESS_H
#define COMMON_EGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/str.h"

enum {
    EGRESS_NAME_CAP = 254, /* 253 characters of a DNS name, and the NUL */
    EGRESS_TEXT_MAX = 300, /* bytes of a rule's text */
    EGRESS_RULES_MAX = 64, /* of one job */
};

/* Pinned: these numbers travel. */
enum egress_kind {
    EGRESS_ALL = 1, /* every address */
    EGRESS_IP4 = 2, /* addr[0..3], prefix 0 to 32 */
    EGRESS_IP6 = 3, /* addr[0..15], prefix 0 to 128 */
    EGRESS_NAME = 4,
};
enum egress_proto { EGRESS_ANY = 0, EGRESS_TCP = 6, EGRESS_UDP = 17 };

/* A destination. */
struct egress_net {
    uint8_t kind;                   /* enum egress_kind */
    uint8_t prefix;                 /* bits of a network; bits behind it are 0 in addr */
    uint8_t proto;                  /* enum egress_proto */
    uint16_t port_first, port_last; /* 1 to 65535; both 0: every port */
    uint8_t addr[16];
};

struct egress_rule {
    struct egress_net net;      /* of EGRESS_NAME: proto and ports */
    char name[EGRESS_NAME_CAP]; /* lower case, without a dot at the end; "*.example.org" */
};

/* Are all fields in range? EGRESS_NAME is none. For destinations from outside. */
bool egress_net_ok(const struct egress_net *n);

/* -EINVAL with a sentence that says what is allowed; *ret is untouched then. */
int egress_parse(struct str text, struct egress_rule *ret, struct err *e);
/* Is this a DNS name (letters, digits, '-', '_', dots; labels of 1 to 63), in lower case, that is
 * no address? A dot at the end is dropped. -EINVAL. */
int egress_name_parse(struct str text, char dst[EGRESS_NAME_CAP], struct err *e);
/* Does a rule of kind EGRESS_NAME speak of this name? In lower case, without a dot at the end. */
bool egress_name_matches(const struct egress_rule *r, struct str name);

/* Addresses as text. -EINVAL: not one (IPv4: four decimal numbers without leading zeroes). */
int egress_ip4_parse(struct str text, uint8_t dst[4]);
int egress_ip6_parse(struct str text, uint8_t dst[16]);
/* "a.b.c.d/n" or "x::/n" as a network; without "/n" one address. -EINVAL with the sentence: not an
 * address, prefix too long, bits behind the prefix. */
int egress_net_parse(struct str text, struct egress_net *ret, struct err *e);
/* Does the address (4 or 16 bytes, by kind EGRESS_IP4 or EGRESS_IP6) lie in the network? */
bool egress_net_holds(const struct egress_net *n, uint8_t kind, const uint8_t *addr);

#endif
