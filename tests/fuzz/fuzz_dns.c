/* DNS messages: what is taken for a question can be refused, and the refusal is an answer to it;
 * what is taken for an answer speaks of the question. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/dns.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t answer[DNS_MESSAGE_MAX];
    struct dns_question q;
    struct dns_addr addrs[DNS_ADDRS_MAX];
    size_t n = 0;
    if (dns_query_parse(data, size, &q) == 0) {
        INSIST(strlen(q.name) < DNS_NAME_CAP && q.end <= size);
        size_t len = dns_error(data, &q, DNS_SERVFAIL, answer);
        INSIST(len == q.end && dns_answer_parse(answer, len, &q, addrs, &n) == 0 && n == 0);
    }
    /* An answer to the question that it holds itself. */
    if (size >= DNS_HEADER && size <= DNS_MESSAGE_MAX) {
        memcpy(answer, data, size);
        answer[2] = 0;
        answer[6] = answer[7] = 0;
        if (dns_query_parse(answer, size, &q) == 0 &&
            dns_answer_parse(data, size, &q, addrs, &n) == 0) {
            INSIST(n <= DNS_ADDRS_MAX);
        }
    }
    return 0;
}
