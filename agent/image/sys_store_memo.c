/*
 * What references resolved to, so that a job's next run need not wait for a thread that reads and
 * hashes the same documents again. An entry counts as long as not one row of the database has
 * changed, and for half a minute: then a use is counted again, and missing files are noticed.
 */
#include <errno.h>
#include <string.h>

#include "agent/image/store_internal.h"
#include "common/sys/sys.h"

enum { MEMO_MS = 30000 };

int image_memo_changes(const struct image_store *s)
{
    return sqlite3_total_changes(s->db.handle);
}

void image_memo_keep(struct image_store *s, const struct image_ref *ref, const struct digest *d,
                     int changes)
{
    struct image_memo *oldest = &s->memo[0];
    char text[IMAGE_REF_CAP];
    image_ref_format(ref, text);
    for (size_t i = 0; i < IMAGE_MEMO_MAX; i++) {
        struct image_memo *m = &s->memo[i];
        if (strcmp(m->ref, text) == 0) {
            oldest = m;
            break;
        }
        if (m->at_ms < oldest->at_ms) {
            oldest = m;
        }
    }
    memcpy(oldest->ref, text, sizeof(text));
    oldest->digest = *d;
    oldest->changes = changes;
    oldest->at_ms = sys_mono_ms();
}

int image_store_known(struct image_store *s, const struct image_ref *ref, struct digest *ret)
{
    char text[IMAGE_REF_CAP];
    int rc = -EAGAIN;
    uint64_t now = sys_mono_ms();
    image_ref_format(ref, text);
    if (pthread_mutex_trylock(&s->lock) != 0) {
        return rc;
    }
    int changes = image_memo_changes(s);
    for (size_t i = 0; i < IMAGE_MEMO_MAX && rc < 0; i++) {
        const struct image_memo *m = &s->memo[i];
        if (m->at_ms != 0 && m->changes == changes && now - m->at_ms < MEMO_MS &&
            strcmp(m->ref, text) == 0) {
            *ret = m->digest;
            rc = 0;
        }
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}
