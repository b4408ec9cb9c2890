/*
 * dns - DNS messages (RFC 1035), as far as a forwarder looks into them: what is asked, and which
 * addresses an answer gives. Pure. Bytes are from outside on both sides.
 */
#ifndef COMMON_DNS_H
#define COMMON_DNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    DNS_NAME_CAP = 254,     /* 253 characters, and the NUL */
    DNS_MESSAGE_MAX = 4096, /* over UDP, with EDNS */
    DNS_HEADER = 12,
    DNS_ADDRS_MAX = 64,
    DNS_SERVFAIL = 2,
    DNS_REFUSED = 5,
};
/* Types that matter here. */
enum { DNS_A = 1, DNS_CNAME = 5, DNS_AAAA = 28 };

struct dns_question {
    uint16_t id;
    uint16_t type;
    size_t end;              /* where the question ends in the message */
    char name[DNS_NAME_CAP]; /* lower case, without a dot at the end; "": the root. A byte that no
                                host name has is '?' */
};

struct dns_addr {
    bool six;
    uint8_t addr[16]; /* the first four of IPv4 */
};

/* One standard query with one question of class IN. -EBADMSG: something else. */
int dns_query_parse(const void *p, size_t n, struct dns_question *ret);
/* An answer to q (its id may be another: the caller compares). Appends to dst what its answer
 * section says of the name or of what the name is an alias of; *ret_n of at most DNS_ADDRS_MAX.
 * -EBADMSG: no answer to that question, or broken. */
int dns_answer_parse(const void *p, size_t n, const struct dns_question *q,
                     struct dns_addr dst[DNS_ADDRS_MAX], size_t *ret_n);
/* The answer with an error code to a query that dns_query_parse() took, into dst (DNS_MESSAGE_MAX
 * bytes). Its length. */
size_t dns_error(const void *query, const struct dns_question *q, uint8_t rcode, void *dst);

#endif
