/*
 * Manifests and indexes. What a document is must be clear from every side: its own mediaType, the
 * Content-Type or descriptor that it came with, and its shape (CVE-2021-41190).
 */
#include <errno.h>
#include <string.h>

#include "agent/image/image.h"
#include "common/insist.h"
#include "common/json.h"
#include "common/mem.h"

static const struct json_limits manifest_json_limits = { .depth_max = 16, .nodes_max = 200000 };

static const char *const index_types[] = { IMAGE_TYPE_OCI_INDEX, IMAGE_TYPE_DOCKER_LIST };
static const char *const manifest_types[] = { IMAGE_TYPE_OCI_MANIFEST, IMAGE_TYPE_DOCKER_MANIFEST };

/* Optional string member: absent and null leave dst "". */
static int take_string(const struct json *obj, const char *key, char *dst, size_t cap,
                       struct err *e)
{
    const struct json *v = json_get(obj, key);
    struct str s = STR("");
    if (v != NULL && v->type != JSON_NULL && !json_str(v, &s)) {
        return err_say(e, -EINVAL, "'%s' is %s, not a string", key, json_type_name(v->type));
    }
    if (str_copy(dst, cap, s) < 0) {
        return err_say(e, -EINVAL, "'%s' is too long", key);
    }
    return 0;
}

static const struct json *member(const struct json *obj, const char *key)
{
    const struct json *v = json_get(obj, key);
    return v == NULL || v->type == JSON_NULL ? NULL : v;
}

static int take_platform(const struct json *obj, struct image_descriptor *d, struct err *e)
{
    const struct json *p = member(obj, "platform");
    if (p == NULL) {
        return 0;
    }
    if (p->type != JSON_OBJECT) {
        return err_say(e, -EINVAL, "'platform' is not an object");
    }
    d->has_platform = true;
    int r = take_string(p, "os", d->platform.os, sizeof(d->platform.os), e);
    if (r == 0) {
        r = take_string(p, "architecture", d->platform.architecture,
                        sizeof(d->platform.architecture), e);
    }
    if (r == 0) {
        r = take_string(p, "variant", d->platform.variant, sizeof(d->platform.variant), e);
    }
    return r;
}

static int take_ref_name(const struct json *obj, struct image_descriptor *d)
{
    const struct json *annotations = member(obj, "annotations");
    struct str name;
    if (json_str(json_get(annotations, "io.containerd.image.name"), &name) ||
        json_str(json_get(annotations, "org.opencontainers.image.ref.name"), &name)) {
        d->ref_name = mem_strndup(name.p, name.n);
        return d->ref_name != NULL ? 0 : -ENOMEM;
    }
    return 0;
}

static int take_descriptor(const struct json *v, struct image_descriptor *d, struct err *e)
{
    struct str text;
    int64_t size = 0;
    if (v == NULL || v->type != JSON_OBJECT) {
        return err_say(e, -EINVAL, "a descriptor is not an object");
    }
    if (!json_str(json_get(v, "digest"), &text)) {
        return err_say(e, -EINVAL, "a descriptor has no digest");
    }
    int r = digest_parse(text, &d->digest, e);
    if (r < 0) {
        return -EINVAL;
    }
    if (!json_int(json_get(v, "size"), &size) || size < 0) {
        return err_say(e, -EINVAL, "a descriptor has no size");
    }
    d->size = (uint64_t)size;
    const struct json *urls = member(v, "urls");
    d->has_urls = urls != NULL && urls->type == JSON_ARRAY && urls->count > 0;
    d->has_artifact_type = member(v, "artifactType") != NULL;
    r = take_string(v, "mediaType", d->media_type, sizeof(d->media_type), e);
    if (r == 0) {
        r = take_platform(v, d, e);
    }
    return r < 0 ? r : take_ref_name(v, d);
}

static int take_entries(const struct json *root, const char *key, struct image_manifest *m,
                        struct err *e)
{
    const struct json *list = member(root, key);
    if (list == NULL) {
        return 0; /* Go writes null for an empty list */
    }
    if (list->type != JSON_ARRAY) {
        return err_say(e, -EINVAL, "'%s' is not an array", key);
    }
    m->entries = mem_calloc(list->count + 1, sizeof(*m->entries));
    if (m->entries == NULL) {
        return -ENOMEM;
    }
    JSON_EACH (v, list) {
        struct image_descriptor *d = &m->entries[m->entries_len++];
        int r = take_descriptor(v, d, e);
        if (r < 0) {
            err_prefix(e, "%s[%zu]", key, m->entries_len - 1);
            return r;
        }
    }
    return 0;
}

static int take_subject(const struct json *root, struct image_manifest *m, struct err *e)
{
    const struct json *v = member(root, "subject");
    struct image_descriptor d;
    if (v == NULL) {
        return 0;
    }
    memset(&d, 0, sizeof(d));
    int r = take_descriptor(v, &d, e);
    mem_free(d.ref_name);
    if (r < 0) {
        err_prefix(e, "subject");
        return r;
    }
    m->has_subject = true;
    m->subject = d.digest;
    return 0;
}

static int take_annotations(const struct json *root, struct image_manifest *m, struct err *e)
{
    const struct json *v = member(root, "annotations");
    if (v == NULL) {
        return 0;
    }
    if (v->type != JSON_OBJECT) {
        return err_say(e, -EINVAL, "'annotations' is not an object");
    }
    JSON_EACH (a, v) {
        if (a->type != JSON_STRING) {
            return err_say(e, -EINVAL, "an annotation is %s, not a string",
                           json_type_name(a->type));
        }
    }
    AUTO_BUF struct buf text = BUF_INIT(2 * IMAGE_MANIFEST_MAX);
    struct json_w w;
    json_w_init(&w, &text, false);
    json_w_value(&w, v);
    if (buf_error(&text) < 0) {
        return buf_error(&text) == -ENOMEM ? -ENOMEM
                                           : err_say(e, -E2BIG, "the annotations are too large");
    }
    m->annotations = buf_take(&text);
    return 0;
}

static bool in_list(struct str s, const char *const list[2])
{
    return str_eqs(s, list[0]) || str_eqs(s, list[1]);
}

/* Sets m->index and m->media_type. */
static int decide_type(const struct json *root, struct str type, struct image_manifest *m,
                       struct err *e)
{
    ptrdiff_t semicolon = str_find(type, ';');
    type = str_trim(semicolon < 0 ? type : str_slice(type, 0, (size_t)semicolon));
    int r = take_string(root, "mediaType", m->media_type, sizeof(m->media_type), e);
    if (r < 0) {
        return r;
    }
    struct str own = str_of(m->media_type);
    if (own.n > 0 && type.n > 0 && !str_eq(own, type)) {
        return err_say(e, -EINVAL, "its mediaType is '%.*s', but it came as '%.*s'", STR_ARG(own),
                       STR_ARG(type));
    }
    if (own.n == 0 && type.n == 0) {
        type =
            member(root, "manifests") != NULL ? str_of(index_types[0]) : str_of(manifest_types[0]);
    }
    struct str effective = own.n > 0 ? own : type;
    m->index = in_list(effective, index_types);
    if (!m->index && !in_list(effective, manifest_types)) {
        return err_say(e, -EINVAL, "'%.*s' is not a manifest's type", STR_ARG(effective));
    }
    if (own.n == 0 && str_copy(m->media_type, sizeof(m->media_type), type) < 0) {
        return err_say(e, -EINVAL, "the type is too long");
    }
    bool mixed = m->index ? member(root, "layers") != NULL || member(root, "config") != NULL
                          : member(root, "manifests") != NULL;
    if (mixed || member(root, "fsLayers") != NULL) {
        return err_say(e, -EINVAL, "it is neither clearly a manifest nor clearly an index");
    }
    return 0;
}

static int take_document(const struct json *root, struct str type, struct image_manifest *m,
                         struct err *e)
{
    int64_t version = 0;
    if (root->type != JSON_OBJECT) {
        return err_say(e, -EINVAL, "it is not an object");
    }
    int r = decide_type(root, type, m, e);
    if (r < 0) {
        return r;
    }
    if (!json_int(json_get(root, "schemaVersion"), &version) || version != 2) {
        return err_say(e, -EINVAL, "its schemaVersion is not 2");
    }
    r = take_string(root, "artifactType", m->artifact_type, sizeof(m->artifact_type), e);
    if (r == 0 && !m->index) {
        r = take_descriptor(json_get(root, "config"), &m->config, e);
        if (r < 0) {
            err_prefix(e, "config");
        }
    }
    if (r == 0) {
        r = take_entries(root, m->index ? "manifests" : "layers", m, e);
    }
    if (r == 0) {
        r = take_subject(root, m, e);
    }
    if (r == 0) {
        r = take_annotations(root, m, e);
    }
    if (r == 0 && !m->index && m->artifact_type[0] == '\0') {
        r = str_copy(m->artifact_type, sizeof(m->artifact_type), str_of(m->config.media_type));
    }
    return r;
}

int image_manifest_parse(struct str text, struct str type, struct image_manifest *ret,
                         struct err *e)
{
    struct json_doc *doc = NULL;
    struct image_manifest m;
    memset(&m, 0, sizeof(m));
    if (text.n > IMAGE_MANIFEST_MAX) {
        return err_say(e, -E2BIG, "the manifest has more than %d bytes", IMAGE_MANIFEST_MAX);
    }
    int r = json_parse(text.p, text.n, &manifest_json_limits, &doc, e);
    if (r == 0) {
        r = take_document(json_root(doc), type, &m, e);
        json_free(doc);
    }
    if (r < 0) {
        image_manifest_release(&m);
        err_prefix(e, "manifest");
        return r;
    }
    *ret = m;
    return 0;
}

void image_manifest_release(struct image_manifest *m)
{
    for (size_t i = 0; i < m->entries_len; i++) {
        mem_free(m->entries[i].ref_name);
    }
    mem_free(m->config.ref_name);
    mem_free(m->entries);
    mem_free(m->annotations);
    memset(m, 0, sizeof(*m));
}

/* ---- layers
 * --------------------------------------------------------------------------------------- */

bool image_layer_is_foreign(const struct image_descriptor *d)
{
    struct str t = str_of(d->media_type);
    return str_starts(t, "application/vnd.oci.image.layer.nondistributable.") ||
           str_starts(t, "application/vnd.docker.image.rootfs.foreign.");
}

bool image_layer_type_ok(struct str t)
{
    static const char *const heads[] = {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    };
    static const char *const tails[] = { "", "+gzip", "+zstd", ".gzip", ".zstd" };
    for (size_t i = 0; i < ARRAY_LEN(heads); i++) {
        if (!str_starts(t, heads[i])) {
            continue;
        }
        struct str tail = str_slice(t, strlen(heads[i]), t.n);
        for (size_t k = 0; k < ARRAY_LEN(tails); k++) {
            if (str_eqs(tail, tails[k])) {
                return true;
            }
        }
    }
    return false;
}

/* ---- platforms
 * -------------------------------------------------------------------------------------- */

void image_platform_host(struct image_platform *ret)
{
    *ret = (struct image_platform)
    {
        .os = "linux",
#if defined(__x86_64__)
        .architecture = "amd64", .variant = "v1",
#elif defined(__aarch64__)
        .architecture = "arm64", .variant = "v8",
#elif defined(__riscv)
        .architecture = "riscv64",
#else
        .architecture = "unknown",
#endif
    };
}

/* "v2" is 2; 0: none, or something else. */
static uint64_t variant_number(const char *variant)
{
    uint64_t n = 0;
    if (variant[0] != 'v' || str_u64_in(str_of(variant + 1), 1, 99, &n) < 0) {
        return 0;
    }
    return n;
}

/* The best entry has the highest rank; 0 does not run here. */
static uint64_t platform_rank(const struct image_platform *p, const struct image_platform *host)
{
    if (strcmp(p->os, host->os) != 0 || strcmp(p->architecture, host->architecture) != 0) {
        return 0;
    }
    if (p->variant[0] == '\0') {
        return 2;
    }
    if (strcmp(p->variant, host->variant) == 0) {
        return 1000;
    }
    uint64_t n = variant_number(p->variant);
    return n > 0 && n < variant_number(host->variant) ? 2 + n : 0;
}

static void offer(const struct image_descriptor *d, struct buf *out)
{
    if (out->len < 200 && d->platform.architecture[0] != '\0') {
        buf_addf(out, "%s%s/%s%s%s", out->len > 0 ? ", " : "", d->platform.os,
                 d->platform.architecture, d->platform.variant[0] != '\0' ? "/" : "",
                 d->platform.variant);
    }
}

int image_index_select(const struct image_manifest *index, const struct image_platform *platform,
                       size_t *ret_i, struct err *e)
{
    AUTO_BUF struct buf offered = BUF_INIT(400);
    uint64_t best = 0;
    size_t best_i = 0;
    REQUIRE(index->index);
    for (size_t i = 0; i < index->entries_len; i++) {
        const struct image_descriptor *d = &index->entries[i];
        if (d->has_artifact_type || strcmp(d->platform.os, "unknown") == 0) {
            continue;
        }
        /* An entry that names no platform is tried last; its config will say. */
        uint64_t rank = d->has_platform ? platform_rank(&d->platform, platform) : 1;
        if (rank > best) {
            best = rank;
            best_i = i;
        }
        offer(d, &offered);
    }
    if (best == 0) {
        return err_say(e, -ENOENT, "the image is not for %s/%s%s%s (it is for: %s)", platform->os,
                       platform->architecture, platform->variant[0] != '\0' ? "/" : "",
                       platform->variant, offered.len > 0 ? buf_cstr(&offered) : "nothing");
    }
    *ret_i = best_i;
    return 0;
}

/* ---- writing
 * -------------------------------------------------------------------------------------------- */

static void write_descriptor(struct json_w *w, const struct image_descriptor *d)
{
    char text[DIGEST_TEXT_CAP];
    json_w_obj(w);
    json_kv_cstr(w, "mediaType", d->media_type);
    json_kv_cstr(w, "digest", digest_format(&d->digest, text));
    json_kv_u64(w, "size", d->size);
    json_w_end(w);
}

int image_manifest_write(const struct image_descriptor *config,
                         const struct image_descriptor *layers, size_t layers_len, struct buf *out)
{
    struct json_w w;
    json_w_init(&w, out, false);
    json_w_obj(&w);
    json_kv_int(&w, "schemaVersion", 2);
    json_kv_cstr(&w, "mediaType", IMAGE_TYPE_OCI_MANIFEST);
    json_w_key(&w, "config");
    write_descriptor(&w, config);
    json_w_key(&w, "layers");
    json_w_arr(&w);
    for (size_t i = 0; i < layers_len; i++) {
        write_descriptor(&w, &layers[i]);
    }
    json_w_end(&w);
    json_w_end(&w);
    return buf_error(out);
}
