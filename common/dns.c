#include "common/dns.h"

#include <errno.h>
#include <string.h>

enum { LABEL_MAX = 63, CLASS_IN = 1 };

static uint16_t be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static char name_char(uint8_t c)
{
    if (c >= 'A' && c <= 'Z') {
        return (char)(c - 'A' + 'a');
    }
    bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
    return plain ? (char)c : '?';
}

/* The name at *at; *at moves behind it. Pointers only lead back, so it ends; never
 * into the header, which changes on the way. -EBADMSG. */
static int name_take(const uint8_t *p, size_t n, size_t *at, char dst[DNS_NAME_CAP])
{
    size_t pos = *at;
    size_t len = 0;
    size_t before = SIZE_MAX; /* the last pointer's target */

    for (;;) {
        if (pos >= n) {
            return -EBADMSG;
        }
        uint8_t c = p[pos];
        if ((c & 0xc0) == 0xc0) {
            if (pos + 2 > n) {
                return -EBADMSG;
            }
            size_t to = (size_t)(be16(p + pos) & 0x3fff);
            if (to < DNS_HEADER || to >= pos || to >= before) {
                return -EBADMSG;
            }
            *at = before == SIZE_MAX ? pos + 2 : *at;
            before = pos = to;
            continue;
        }
        if (c > LABEL_MAX || pos + 1 + c > n || (c != 0 && len + c + (len != 0) >= DNS_NAME_CAP)) {
            return -EBADMSG;
        }
        pos++;
        if (c == 0) {
            break;
        }
        if (len != 0) {
            dst[len++] = '.';
        }
        for (uint8_t i = 0; i < c; i++) {
            dst[len++] = name_char(p[pos++]);
        }
    }
    dst[len] = '\0';
    *at = before == SIZE_MAX ? pos : *at;
    return 0;
}

static int question_take(const uint8_t *p, size_t n, struct dns_question *ret)
{
    size_t at = DNS_HEADER;

    if (n < DNS_HEADER || be16(p + 4) != 1 || name_take(p, n, &at, ret->name) != 0 || n - at < 4 ||
        be16(p + at + 2) != CLASS_IN) {
        return -EBADMSG;
    }
    /* The first name has nothing to point back to: its length is what it says. */
    if (at != DNS_HEADER + strlen(ret->name) + (ret->name[0] != '\0' ? 2 : 1)) {
        return -EBADMSG;
    }
    ret->id = be16(p);
    ret->type = be16(p + at);
    ret->end = at + 4;
    return 0;
}

int dns_query_parse(const void *p, size_t n, struct dns_question *ret)
{
    const uint8_t *b = p;
    struct dns_question q;

    /* A query, of the standard kind; no answers in it. */
    if (n < DNS_HEADER || n > DNS_MESSAGE_MAX || (b[2] & 0xf8) != 0 || be16(b + 6) != 0 ||
        question_take(b, n, &q) != 0) {
        return -EBADMSG;
    }
    *ret = q;
    return 0;
}

/* One record of the answer section. name: what is asked for by now. */
static int record_take(const uint8_t *p, size_t n, size_t *at, char name[DNS_NAME_CAP],
                       struct dns_addr dst[DNS_ADDRS_MAX], size_t *count)
{
    char owner[DNS_NAME_CAP];

    if (name_take(p, n, at, owner) != 0 || n - *at < 10) {
        return -EBADMSG;
    }
    uint16_t type = be16(p + *at);
    uint16_t class = be16(p + *at + 2);
    size_t len = be16(p + *at + 8);
    size_t data = *at + 10;
    if (n - data < len) {
        return -EBADMSG;
    }
    *at = data + len;
    if (class != CLASS_IN || strcmp(owner, name) != 0) {
        return 0;
    }
    if (type == DNS_CNAME) {
        return name_take(p, n, &data, name);
    }
    size_t want = type == DNS_A ? 4 : type == DNS_AAAA ? 16 : 0;
    if (want == 0 || *count == DNS_ADDRS_MAX) {
        return 0;
    }
    if (len != want) {
        return -EBADMSG;
    }
    dst[*count] = (struct dns_addr){ .six = want == 16 };
    memcpy(dst[(*count)++].addr, p + data, want);
    return 0;
}

int dns_answer_parse(const void *p, size_t n, const struct dns_question *q,
                     struct dns_addr dst[DNS_ADDRS_MAX], size_t *ret_n)
{
    const uint8_t *b = p;
    struct dns_question theirs;
    char name[DNS_NAME_CAP];
    size_t count = 0;

    if (n < DNS_HEADER || (b[2] & 0xf8) != 0x80 || question_take(b, n, &theirs) != 0 ||
        theirs.type != q->type || strcmp(theirs.name, q->name) != 0) {
        return -EBADMSG;
    }
    memcpy(name, q->name, sizeof name);
    size_t at = theirs.end;
    for (uint16_t i = be16(b + 6); i > 0; i--) {
        if (record_take(b, n, &at, name, dst, &count) != 0) {
            return -EBADMSG;
        }
    }
    *ret_n = count;
    return 0;
}

size_t dns_error(const void *query, const struct dns_question *q, uint8_t rcode, void *dst)
{
    const uint8_t *b = query;
    uint8_t *out = dst;

    memcpy(out, b, q->end);
    out[2] = (uint8_t)(0x80 | (b[2] & 0x01));  /* an answer; recursion as asked for */
    out[3] = (uint8_t)(0x80 | (rcode & 0x0f)); /* recursion is to be had */
    memset(out + 6, 0, DNS_HEADER - 6);
    return q->end;
}
