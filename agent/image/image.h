/*
 * image - names, documents and archives of container images (OCI image and distribution specs 1.1,
 * Docker's formats), from bytes that nobody has checked. Pure: the CLI uses it too.
 *
 * Every parser is bounded, copies what it keeps, and leaves *ret alone when it fails. -EINVAL: the
 * bytes are not what they should be; -ENOTSUP: well-formed, but not for us; -E2BIG: over a limit;
 * -ENOMEM. e has the sentence.
 */
#ifndef AGENT_IMAGE_IMAGE_H
#define AGENT_IMAGE_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/digest.h"
#include "common/err.h"
#include "common/str.h"

enum {
    IMAGE_NAME_MAX = 255, /* a repository's name */
    IMAGE_TAG_MAX = 128,
    IMAGE_MEDIA_TYPE_MAX = 255,
    IMAGE_LAYERS_MAX = 127, /* of an image that is to run; pushed documents may have more */
    IMAGE_MANIFEST_MAX = 4096 * 1024, /* bytes of a manifest or index */
    IMAGE_CONFIG_MAX = 4096 * 1024,
    IMAGE_INDEX_DEPTH_MAX = 3, /* indexes within indexes */
    IMAGE_PATH_MAX = 4096,     /* of an archive's member, with NUL */
    IMAGE_SESSION_LEN = 32,    /* hex digits of an upload session's id */
};

/* ---- names ------------------------------------------------------------------------------------
 */

/* [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/…)*, at most IMAGE_NAME_MAX bytes. */
bool image_name_ok(struct str s);
/* [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127} */
bool image_tag_ok(struct str s);

struct image_ref {
    char repository[IMAGE_NAME_MAX + 1]; /* "" when only a digest was given */
    char tag[IMAGE_TAG_MAX + 1];         /* "" when only a digest was given */
    struct digest digest; /* algo DIGEST_NONE when none was given; it wins over tag */
};

enum { IMAGE_REF_CAP = IMAGE_NAME_MAX + 1 + IMAGE_TAG_MAX + 1 + DIGEST_TEXT_CAP };

/* [HOST:PORT/]repository[:tag][@digest], or [@]digest alone. HOST:PORT/ is dropped: every node is
 * the same registry. Neither tag nor digest: the tag "latest". */
int image_ref_parse(struct str s, struct image_ref *ret, struct err *e);
/* "repository:tag@digest", without what is not there. Returns dst. */
char *image_ref_format(const struct image_ref *ref, char dst[IMAGE_REF_CAP]);

/* ---- requests of the distribution protocol ----------------------------------------------------
 */

enum image_route_kind {
    IMAGE_ROUTE_BASE,      /* /v2/ */
    IMAGE_ROUTE_CATALOG,   /* /v2/_catalog */
    IMAGE_ROUTE_BLOB,      /* /v2/N/blobs/D */
    IMAGE_ROUTE_UPLOADS,   /* /v2/N/blobs/uploads/ */
    IMAGE_ROUTE_SESSION,   /* /v2/N/blobs/uploads/S */
    IMAGE_ROUTE_MANIFEST,  /* /v2/N/manifests/T-or-D */
    IMAGE_ROUTE_TAGS,      /* /v2/N/tags/list */
    IMAGE_ROUTE_REFERRERS, /* /v2/N/referrers/D */
};

struct image_route {
    enum image_route_kind kind;
    struct image_ref ref;                /* repository; tag or digest where the kind has one */
    char session[IMAGE_SESSION_LEN + 1]; /* SESSION */
};

/* Takes a request's path, still percent-encoded, apart. -ENOENT: no such route; -EINVAL: a name
 * that breaks the rules (NAME_INVALID); -ENOMSG: a tag that does; -EBADMSG: a malformed or unknown
 * digest (DIGEST_INVALID); -ESRCH: an upload session that can not exist (BLOB_UPLOAD_UNKNOWN). */
int image_route_parse(struct str path, struct image_route *ret, struct err *e);

/* The Range header of a download of `size` bytes: 0 and what to send; -ENOENT: none that we honour,
 * send it all; -ERANGE: 416. */
int image_range_parse(struct str header, uint64_t size, uint64_t *ret_from, uint64_t *ret_len);
/* "a-b" of an upload's Content-Range ("bytes a-b/…" is understood too). -EINVAL. */
int image_chunk_range_parse(struct str header, uint64_t *ret_from, uint64_t *ret_to);

/* ---- documents --------------------------------------------------------------------------------
 */

#define IMAGE_TYPE_OCI_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define IMAGE_TYPE_OCI_INDEX "application/vnd.oci.image.index.v1+json"
#define IMAGE_TYPE_OCI_CONFIG "application/vnd.oci.image.config.v1+json"
#define IMAGE_TYPE_OCI_LAYER "application/vnd.oci.image.layer.v1.tar"
#define IMAGE_TYPE_DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"
#define IMAGE_TYPE_DOCKER_LIST "application/vnd.docker.distribution.manifest.list.v2+json"
#define IMAGE_TYPE_DOCKER_CONFIG "application/vnd.docker.container.image.v1+json"

struct image_platform {
    char os[32];           /* "linux"; "" when the document does not say */
    char architecture[32]; /* "amd64" */
    char variant[32];      /* "v2"; often "" */
};

/* What this binary was built for; the variant is the lowest. */
void image_platform_host(struct image_platform *ret);

struct image_descriptor {
    char media_type[IMAGE_MEDIA_TYPE_MAX + 1];
    struct digest digest;
    uint64_t size;
    struct image_platform platform; /* in an index */
    bool has_platform;
    bool has_artifact_type;
    bool has_urls;
    char *ref_name; /* org.opencontainers.image.ref.name, or containerd's name; or NULL */
};

struct image_manifest {
    bool index; /* entries are manifests, otherwise layers */
    char media_type[IMAGE_MEDIA_TYPE_MAX + 1];
    char artifact_type[IMAGE_MEDIA_TYPE_MAX + 1]; /* as referrers show it; "" none */
    struct image_descriptor config;               /* not in an index */
    struct image_descriptor *entries;
    size_t entries_len;
    bool has_subject;
    struct digest subject;
    char *annotations; /* JSON text of the object, or NULL */
};

/* A manifest or index. type: the Content-Type or descriptor's media type it came with, or empty.
 * The document's own mediaType must be the same, and it can not be both (CVE-2021-41190). */
int image_manifest_parse(struct str text, struct str type, struct image_manifest *ret,
                         struct err *e);
void image_manifest_release(struct image_manifest *m);
/* Is it a layer that a registry need not hold (foreign, non-distributable)? */
bool image_layer_is_foreign(const struct image_descriptor *d);
/* A media type of layers that image_unpack_stream() can read? */
bool image_layer_type_ok(struct str media_type);

/* The entry of an index for this platform: os and architecture, then the variant (the same, else
 * the highest compatible, else one without); the first of equals. Attestations and artifacts are
 * passed over. -ENOENT names what is on offer. */
int image_index_select(const struct image_manifest *index, const struct image_platform *platform,
                       size_t *ret_i, struct err *e);

/* A list of strings; v[n] is NULL. */
struct image_strv {
    char **v;
    size_t n;
};
void image_strv_release(struct image_strv *s);

struct image_config {
    struct image_platform platform;
    struct image_strv entrypoint, cmd, env;
    char *user;        /* "" when not given, as all strings here */
    char *workdir;     /* "/" when not given */
    char *stop_signal; /* "SIGTERM" when not given */
    struct digest *diff_ids;
    size_t diff_ids_len;
    int64_t created_us; /* 0: not given */
};

int image_config_parse(struct str text, struct image_config *ret, struct err *e);
void image_config_release(struct image_config *c);
/* May it run here? -ENOTSUP says what it is for. */
int image_config_check(const struct image_config *c, const struct image_platform *host,
                       struct err *e);

/* What to execute, by Docker's rules: entrypoint, then cmd; the user's command replaces cmd, the
 * user's entrypoint replaces entrypoint and drops the image's cmd. Either may be NULL (not given).
 */
int image_argv(const struct image_config *c, const struct image_strv *user_entrypoint,
               const struct image_strv *user_cmd, struct image_strv *ret, struct err *e);
/* The image's environment with the job's laid over it; the later of two with one name wins. */
int image_env(const struct image_config *c, const struct image_strv *job, struct image_strv *ret,
              struct err *e);
/* "SIGUSR1", "USR1", "10", "SIGRTMIN+3". -EINVAL. */
int image_signal_parse(struct str s, int *ret_signal);

/* ---- archives (docker save, OCI layout) ---------------------------------------------------------
 */

/* A member's name in one form: no leading "/" or "./", no double "/", no "..". "" for the root.
 * -EINVAL, -ENAMETOOLONG. */
int image_archive_name(struct str name, char dst[IMAGE_PATH_MAX]);
/* The member that the symbolic link `member` points to. -EINVAL: out of the archive. */
int image_archive_link(const char *member, struct str target, char dst[IMAGE_PATH_MAX]);

struct image_saved {
    char *config;             /* member names, in image_archive_name()'s form */
    struct image_strv layers; /* the lowest first */
    struct image_strv tags;   /* "repository:tag" */
};
struct image_saved_list {
    struct image_saved *v;
    size_t n;
};
/* docker save's manifest.json. */
int image_saved_parse(struct str text, struct image_saved_list *ret, struct err *e);
void image_saved_release(struct image_saved_list *l);

/* The file oci-layout: version 1.x. */
int image_layout_check(struct str text, struct err *e);
/* "blobs/sha256/<hex>". Returns dst. */
enum { IMAGE_BLOB_PATH_CAP = 16 + 2 * DIGEST_BYTES_MAX };
char *image_layout_blob(const struct digest *d, char dst[IMAGE_BLOB_PATH_CAP]);

/* Writes an OCI manifest for an imported image. */
int image_manifest_write(const struct image_descriptor *config,
                         const struct image_descriptor *layers, size_t layers_len, struct buf *out);

#endif
