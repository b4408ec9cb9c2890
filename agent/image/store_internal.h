/*
 * store_internal - the store's own half: what runs on pool threads, under one lock. image_store.h's
 * calls (uv_store*.c) and the registry (uv_registry*.c) are made of these.
 *
 * Every function here may block on disk and takes the lock itself, unless it says otherwise. They
 * return 0 or -Exxx: -ENOENT (not here), -ENOSPC, -EIO (the database), -ENOMEM.
 */
#ifndef AGENT_IMAGE_STORE_INTERNAL_H
#define AGENT_IMAGE_STORE_INTERNAL_H

#include <pthread.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/image/image_store.h"
#include "common/json.h"
#include "common/loop/loop.h"
#include "common/map.h"

enum {
    IMAGE_DB_STATEMENTS_MAX = 64,
    IMAGE_PINS_MAX = 1 << 20,
    IMAGE_UPLOAD_NAME_CAP = IMAGE_SESSION_LEN + 1,
};

/* What a manifest refers to; in the database. */
enum image_ref_kind {
    IMAGE_REFERS_CONFIG = 1,
    IMAGE_REFERS_LAYER = 2,
    IMAGE_REFERS_MANIFEST = 3,
    IMAGE_REFERS_DIFF_ID = 4, /* of an unpacked layer: no blob */
};

struct image_pin {
    char digest[DIGEST_TEXT_CAP];
    unsigned count;
};

struct image_db {
    sqlite3 *handle;
    struct {
        const char *sql; /* the literal's address is the key */
        sqlite3_stmt *statement;
    } cached[IMAGE_DB_STATEMENTS_MAX];
    size_t cached_len;
};

/* What a reference led to (sys_store_memo.c). */
struct image_memo {
    char ref[IMAGE_REF_CAP];
    struct digest digest;
    int changes;    /* rows changed so far when it was found */
    uint64_t at_ms; /* 0: a free place */
};
enum { IMAGE_MEMO_MAX = 64 };

struct image_store {
    struct loop_owner owner;
    struct loop_timer prune_timer;
    struct image_store_options opt;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
    bool closing;
    bool pruning; /* by itself */
    uint64_t started_ms;

    char *data_dir; /* opt.data_dir's own copy */
    int blobs;      /* data_dir/blobs */
    int uploads;    /* data_dir/blobs/uploads */

    pthread_mutex_t lock; /* of db, and of names appearing and going under blobs/ */
    struct image_db db;
    struct image_memo memo[IMAGE_MEMO_MAX]; /* under lock, too */

    /* Held for moments only: the loop takes it too. */
    pthread_mutex_t brief;
    struct map pins; /* digest text → struct image_pin */
    struct image_store_stats stats;
};

/* ---- sys_store_memo.c; all with the lock held ---- */

int image_memo_changes(const struct image_store *s);
void image_memo_keep(struct image_store *s, const struct image_ref *ref, const struct digest *d,
                     int changes);

/* ---- sys_store_db.c: the database; all with the lock held
 * ---------------------------------------- */

int image_db_open(struct image_db *db, const char *dir, struct err *e);
void image_db_close(struct image_db *db);
/* A prepared statement for a literal: reset, without bindings. NULL is taken by all that follow. */
sqlite3_stmt *image_db_query(struct image_db *db, const char *sql);
void image_db_text(sqlite3_stmt *q, int i, const char *text);
void image_db_int(sqlite3_stmt *q, int i, int64_t v);
/* 1: a row; 0: no more; or -Exxx. */
int image_db_step(struct image_db *db, sqlite3_stmt *q, struct err *e);
/* Steps once where no row is wanted. */
int image_db_run(struct image_db *db, sqlite3_stmt *q, struct err *e);
const char *image_db_column_text(sqlite3_stmt *q, int i); /* never NULL */
int image_db_begin(struct image_db *db, struct err *e);
/* Commits when r is 0, otherwise rolls back. Returns r, or why it could not commit. */
int image_db_end(struct image_db *db, int r, struct err *e);

void image_db_reset(sqlite3_stmt **q);
#define AUTO_QUERY __attribute__((cleanup(image_db_reset)))

/* The repository's id, 1 or more; create makes it. -ENOENT. Lock held. */
int64_t image_db_repo(struct image_db *db, const char *name, bool create, struct err *e);

/* ---- sys_store.c ---------------------------------------------------------- */

/* Everything but the loop's part: directories, database, numbers. */
int image_store_init(struct image_store *s, const struct image_store_options *opt, struct err *e);
void image_store_release(struct image_store *s);
/* Blobs came or went. */
void image_store_add_stats(struct image_store *s, int64_t blobs, int64_t bytes);
/* Sessions that are open now; bytes that came in since the last call. */
void image_store_note_uploads(struct image_store *s, unsigned sessions, uint64_t bytes);
void image_store_note_download(struct image_store *s, uint64_t bytes);
bool image_store_is_pinned(struct image_store *s, const char *digest);

/* ---- sys_store_blobs.c
 * ------------------------------------------------------------------------------ */

int image_blobs_init(struct image_store *s, struct err *e);
/* A new file for an upload: opens it and gives its name. */
int image_upload_create(struct image_store *s, char ret_name[IMAGE_UPLOAD_NAME_CAP], int *ret_fd,
                        struct err *e);
void image_upload_remove(struct image_store *s, const char *name);
/* The upload, whole and verified, becomes the blob d of the repository: synced, renamed, recorded.
 */
int image_upload_commit(struct image_store *s, const char *name, int fd, const struct digest *d,
                        uint64_t size, const char *repo, struct err *e);
/* A small blob from memory, recorded by nobody yet. */
int image_blob_write(struct image_store *s, const struct digest *d, const void *p, size_t n,
                     struct err *e);
/* Removes the file. Lock held. */
void image_blob_unlink(struct image_store *s, const struct digest *d);
/* Is it in the repository? Looking at it keeps it for another grace time. */
int image_blob_stat(struct image_store *s, const char *repo, const struct digest *d,
                    uint64_t *ret_size, struct err *e);
/* Links a blob that `from` ("": anybody) has into repo. -ENOENT. */
int image_blob_mount(struct image_store *s, const char *from, const char *repo,
                     const struct digest *d, struct err *e);
int image_blob_delete(struct image_store *s, const char *repo, const struct digest *d,
                      struct err *e);
/* Room for n more bytes? -ENOSPC: the disk or the store's own limit is full. */
int image_store_room(struct image_store *s, uint64_t n, struct err *e);

/* ---- sys_store_manifests.c
 * ---------------------------------------------------------------------------- */

struct image_manifest_info {
    struct digest digest;
    uint64_t size;
    char media_type[IMAGE_MEDIA_TYPE_MAX + 1];
};

/* Which of the two was unknown is what *ret_no_repo says, with -ENOENT. */
int image_manifest_find(struct image_store *s, const struct image_ref *ref,
                        struct image_manifest_info *ret, bool *ret_no_repo, struct err *e);
/* Stores and records; the blobs that it needs must be in the repository: -ENXIO names one that is
 * not. tags: each gets to point to it. */
int image_manifest_put(struct image_store *s, const char *repo, const struct digest *d,
                       struct str text, const struct image_manifest *m, const char *const *tags,
                       size_t tags_len, struct err *e);
/* By ref->tag only the tag, by ref->digest the manifest and its tags. */
int image_manifest_delete(struct image_store *s, const struct image_ref *ref, bool *ret_no_repo,
                          struct err *e);
/* Appends up to n names after `after` as JSON strings to a JSON array that is open in w. *ret_last:
 * the last one, when there are more. repo NULL: the names of the repositories. */
int image_store_names(struct image_store *s, const char *repo, const char *after, uint64_t n,
                      struct json_w *w, char ret_last[IMAGE_NAME_MAX + 1], struct err *e);
/* Appends descriptors of up to n manifests whose subject is d, as image_store_names(). */
int image_store_referrers(struct image_store *s, const char *repo, const struct digest *d,
                          const char *artifact_type, const char *after, uint64_t n,
                          struct json_w *w, char ret_last[DIGEST_TEXT_CAP], struct err *e);
/* A whole blob (manifest, config) into memory, verified. -ENOENT, -E2BIG, -EBADMSG. */
int image_blob_load(struct image_store *s, const struct digest *d, size_t max, struct buf *out,
                    struct err *e);

/* ---- sys_store_gc.c -------------------------------------------------------- */

/* Removes what nothing refers to and what is over the limit. untagged: also manifests without a tag
 * that are older than the grace time. No image goes within the grace time after the start. */
int image_store_collect(struct image_store *s, bool untagged, struct image_pruned *ret,
                        struct err *e);
/* Removes the manifest's rows when nothing holds it any more. Lock held, in a transaction. */
int image_manifest_drop(struct image_store *s, const char *digest, struct err *e);
/* image_store_delete(), with what only that image needed. */
int image_store_delete_now(struct image_store *s, const struct image_ref *ref,
                           struct image_pruned *ret, struct err *e);
/* Removes files that no row knows and that are older than the grace time. */
void image_store_sweep(struct image_store *s);

/* ---- sys_store_list.c ------------------------------------------------------ */

int image_store_list_json(struct image_store *s, struct buf *out, struct err *e);
int image_store_list_diff_ids(struct image_store *s, struct digest **ret, size_t *ret_n,
                              struct err *e);
/* Sets the stats from the database. Lock held. */
int image_store_count(struct image_store *s, struct err *e);

/* ---- sys_store_resolve.c --------------------------------------------------- */

int image_store_resolve_now(struct image_store *s, const struct image_ref *ref,
                            struct image_resolved **ret, struct err *e);

#endif
