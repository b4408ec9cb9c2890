/* The small parsers: digests, ids, times, sizes, durations, numbers, escapes. The first byte
 * chooses one. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/conf.h"
#include "common/digest.h"
#include "common/http1.h"
#include "common/ids.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_digest(struct str s)
{
    struct digest d;
    struct err e;
    char text[DIGEST_TEXT_CAP];
    if (digest_parse(s, &d, &e) == 0) {
        INSIST(str_eqs(s, digest_format(&d, text)));
    } else {
        INSIST(err_text(&e)[0] != '\0');
    }
}

static void try_ulid(struct str s)
{
    struct ulid id;
    char text[ULID_TEXT_CAP];
    if (ulid_parse(s, &id) == 0) {
        ulid_format(id, text);
        INSIST(str_ieqs(s, text));
    }
}

static void try_time(struct str s)
{
    int64_t us;
    int64_t back;
    char text[TIME_TEXT_CAP];
    if (time_parse(s, &us) == 0) {
        INSIST(us >= 0);
        INSIST(time_parse(str_of(time_format(us, text)), &back) == 0 && back == us);
    }
}

static void try_numbers(struct str s)
{
    uint64_t u;
    int64_t i;
    char text[64];
    if (str_u64(s, &u) == 0) {
        INSIST(str_i64(s, &i) == 0 ? (uint64_t)i == u : u > INT64_MAX);
        INSIST(str_size(s, &u) == 0);
    }
    if (str_size(s, &u) == 0) {
        (void)str_fmt_size(text, sizeof text, u);
    }
    if (str_duration_ms(s, &u) == 0) {
        (void)str_fmt_duration(text, sizeof text, u);
    }
    (void)str_hex_u64(s, &u);
    bool b;
    (void)str_bool(s, &b);
}

static void try_text(struct str s)
{
    char out[256];
    size_t n;
    uint8_t bytes[32];
    struct str rest = s;
    struct str piece;
    size_t total = 0;
    while (str_split(&rest, ',', &piece)) {
        total += piece.n + 1;
    }
    INSIST(total == s.n || total == s.n + 1);
    INSIST(str_utf8_span(s) <= s.n);
    INSIST(str_trim(s).n <= s.n);
    INSIST(str_distance(s, s) == (s.n > 64 ? 99U : 0U));
    if (http1_unescape(s, out, sizeof out, &n) == 0) {
        INSIST(strlen(out) == n && n <= s.n);
    }
    (void)http1_query(s, "key", 0, out, sizeof out);
    if (str_unhex(s, bytes, s.n / 2 <= sizeof bytes ? s.n / 2 : 0) == 0 &&
        s.n / 2 <= sizeof bytes) {
        str_hex(out, bytes, s.n / 2);
        INSIST(str_ieqs(s, out));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const tries[])(struct str) = { try_digest, try_ulid, try_time, try_numbers,
                                                 try_text };
    if (size == 0) {
        return 0;
    }
    /* A copy of exactly that size. */
    char *copy = malloc(size);
    if (copy == NULL) {
        abort();
    }
    memcpy(copy, data + 1, size - 1);
    tries[data[0] % ARRAY_LEN(tries)]((struct str){ copy, size - 1 });
    free(copy);
    return 0;
}
