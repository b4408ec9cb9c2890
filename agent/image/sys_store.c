/*
 * The store's beginning and end, its pins and its numbers.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "agent/image/store_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"

static void take_options(struct image_store *s, const struct image_store_options *opt)
{
    const uint64_t hour_ms = 3600000;
    s->opt = *opt;
    if (s->opt.platform.os[0] == '\0') {
        image_platform_host(&s->opt.platform);
    }
    s->opt.blob_bytes_max = opt->blob_bytes_max > 0 ? opt->blob_bytes_max : 64ULL << 30;
    s->opt.uploads_max = opt->uploads_max > 0 ? opt->uploads_max : 256;
    s->opt.upload_age_ms = opt->upload_age_ms > 0 ? opt->upload_age_ms : hour_ms;
    s->opt.grace_ms = opt->grace_ms > 0 ? opt->grace_ms : hour_ms;
    s->stats.limit_bytes = opt->limit_bytes;
}

static int open_database(struct image_store *s, struct err *e)
{
    char path[4096];
    int n = snprintf(path, sizeof(path), "%s/db", s->opt.data_dir);
    if (n < 0 || n >= (int)sizeof(path)) {
        return err_set(e, -ENAMETOOLONG, "the data directory");
    }
    int r = sys_mkdirs(AT_FDCWD, path, 0700, e);
    return r < 0 ? r : image_db_open(&s->db, path, e);
}

int image_store_init(struct image_store *s, const struct image_store_options *opt, struct err *e)
{
    uint64_t key[2];
    sys_random(key, sizeof(key));
    s->blobs = s->uploads = -1;
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->brief, NULL);
    map_init(&s->pins, IMAGE_PINS_MAX, key[0], key[1]);
    take_options(s, opt);
    s->started_ms = sys_mono_ms();
    s->data_dir = mem_strdup(opt->data_dir);
    s->opt.data_dir = s->data_dir;
    int r = s->data_dir == NULL ? -ENOMEM : open_database(s, e);
    if (r == 0) {
        r = image_blobs_init(s, e);
    }
    if (r == 0) {
        r = image_store_count(s, e);
    }
    if (r < 0) {
        image_store_release(s);
    }
    return r;
}

void image_store_release(struct image_store *s)
{
    struct image_pin *pin;
    for (size_t i = 0; (pin = map_next(&s->pins, &i)) != NULL;) {
        mem_free(pin);
    }
    map_release(&s->pins);
    image_db_close(&s->db);
    s->uploads = fd_close(s->uploads);
    s->blobs = fd_close(s->blobs);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->brief);
    s->data_dir = mem_free(s->data_dir);
    s->opt.data_dir = NULL;
}

void image_store_add_stats(struct image_store *s, int64_t blobs, int64_t bytes)
{
    pthread_mutex_lock(&s->brief);
    s->stats.blobs += (uint64_t)blobs;
    s->stats.bytes += (uint64_t)bytes;
    if (bytes < 0) {
        s->stats.pruned_bytes_total += (uint64_t)-bytes;
    }
    pthread_mutex_unlock(&s->brief);
}

void image_store_note_uploads(struct image_store *s, unsigned sessions, uint64_t bytes)
{
    pthread_mutex_lock(&s->brief);
    s->stats.uploads = sessions;
    s->stats.uploads_bytes_total += bytes;
    pthread_mutex_unlock(&s->brief);
}

void image_store_note_download(struct image_store *s, uint64_t bytes)
{
    pthread_mutex_lock(&s->brief);
    s->stats.downloads_bytes_total += bytes;
    pthread_mutex_unlock(&s->brief);
}

void image_store_stats(struct image_store *s, struct image_store_stats *ret)
{
    pthread_mutex_lock(&s->brief);
    *ret = s->stats;
    ret->pins = (unsigned)s->pins.len;
    pthread_mutex_unlock(&s->brief);
}

/* ---- pins --------------------------------------------------------------------------------------
 */

static int pin_locked(struct image_store *s, const char *text)
{
    struct image_pin *pin = map_get(&s->pins, str_of(text));
    if (pin != NULL) {
        pin->count++;
        return 0;
    }
    pin = mem_zalloc(sizeof(*pin));
    if (pin == NULL) {
        return -ENOMEM;
    }
    int r = str_copy(pin->digest, sizeof(pin->digest), str_of(text));
    INSIST(r == 0);
    pin->count = 1;
    r = map_add(&s->pins, str_of(pin->digest), pin);
    if (r < 0) {
        mem_free(pin);
        return -ENOMEM;
    }
    return 0;
}

int image_store_pin(struct image_store *s, const struct digest *d)
{
    char text[DIGEST_TEXT_CAP];
    pthread_mutex_lock(&s->brief);
    int r = pin_locked(s, digest_format(d, text));
    pthread_mutex_unlock(&s->brief);
    return r;
}

void image_store_unpin(struct image_store *s, const struct digest *d)
{
    char text[DIGEST_TEXT_CAP];
    pthread_mutex_lock(&s->brief);
    struct image_pin *pin = map_get(&s->pins, str_of(digest_format(d, text)));
    REQUIRE(pin != NULL);
    if (--pin->count == 0) {
        map_remove(&s->pins, str_of(text));
        mem_free(pin);
    }
    pthread_mutex_unlock(&s->brief);
}

bool image_store_is_pinned(struct image_store *s, const char *digest)
{
    pthread_mutex_lock(&s->brief);
    bool pinned = map_get(&s->pins, str_of(digest)) != NULL;
    pthread_mutex_unlock(&s->brief);
    return pinned;
}
