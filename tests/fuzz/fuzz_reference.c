/*
 * Names and requests: whatever is accepted obeys the grammar, survives a round trip, and can not be
 * used as a path to anywhere.
 */
#include <stdint.h>
#include <string.h>

#include "agent/image/image.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ref(const struct image_ref *ref)
{
    INSIST(ref->repository[0] == '\0' || image_name_ok(str_of(ref->repository)));
    INSIST(ref->tag[0] == '\0' || image_tag_ok(str_of(ref->tag)));
    INSIST(strstr(ref->repository, "..") == NULL && strchr(ref->tag, '/') == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str s = { (const char *)data, size };
    struct image_ref ref;
    struct image_ref again;
    struct image_route route;
    struct digest d;
    char text[IMAGE_REF_CAP];
    char digest[DIGEST_TEXT_CAP];
    uint64_t a = 0;
    uint64_t b = 0;
    int n = 0;
    if (image_ref_parse(s, &ref, NULL) == 0) {
        check_ref(&ref);
        INSIST(ref.repository[0] != '\0' || ref.digest.algo != DIGEST_NONE);
        INSIST(image_ref_parse(str_of(image_ref_format(&ref, text)), &again, NULL) == 0);
        INSIST(strcmp(again.repository, ref.repository) == 0 && strcmp(again.tag, ref.tag) == 0);
        INSIST(digest_eq(&again.digest, &ref.digest));
    }
    if (image_route_parse(s, &route, NULL) == 0) {
        check_ref(&route.ref);
        INSIST((route.kind == IMAGE_ROUTE_SESSION) == (route.session[0] != '\0'));
        INSIST((route.kind == IMAGE_ROUTE_BASE || route.kind == IMAGE_ROUTE_CATALOG) ==
               (route.ref.repository[0] == '\0'));
    }
    if (digest_parse(s, &d, NULL) == 0) {
        INSIST(str_eqs(s, digest_format(&d, digest)));
    }
    if (image_range_parse(s, 1000, &a, &b) == 0) {
        INSIST(b > 0 && a < 1000 && b <= 1000 - a);
    }
    if (image_chunk_range_parse(s, &a, &b) == 0) {
        INSIST(a <= b);
    }
    if (image_signal_parse(s, &n) == 0) {
        INSIST(n >= 1 && n <= 64);
    }
    return 0;
}
