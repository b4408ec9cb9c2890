/* An image's facts as JSON: in rows of the table, in the node's file of them, in the API. */
#include <errno.h>

#include "agent/image/programs.h"

enum { LEVEL_MAX = 4 };

static const struct {
    unsigned bit;
    const char *name;
} features[] = {
    { IMAGE_FEATURE_AES, "aes" },       { IMAGE_FEATURE_CLMUL, "clmul" },
    { IMAGE_FEATURE_SHA, "sha" },       { IMAGE_FEATURE_AVX2, "avx2" },
    { IMAGE_FEATURE_AVX512, "avx512" },
};

static void hits_write(struct json_w *w, const struct image_elf_counts *c)
{
    json_w_key(w, "hits");
    json_w_obj(w);
    json_kv_u64(w, "aes", c->aes);
    json_kv_u64(w, "clmul", c->clmul);
    json_kv_u64(w, "sha", c->sha);
    json_kv_u64(w, "avx2", c->avx2);
    json_kv_u64(w, "avx512", c->avx512);
    json_kv_u64(w, "code_bytes", c->code_bytes);
    json_w_end(w);
}

void image_programs_write(struct json_w *w, const struct image_programs *p, bool brief)
{
    json_w_obj(w);
    json_kv_bool(w, "scanned", p->known);
    if (p->known) {
        json_kv_cstr(w, "arch", p->arch);
        json_kv_u64(w, "x86_64_level", p->isa);
        if (p->script || !brief) {
            json_kv_bool(w, "script", p->script);
        }
        if (p->entrypoint || !brief) {
            json_kv_bool(w, "entrypoint", p->entrypoint);
        }
        json_w_key(w, "features");
        json_w_arr(w);
        for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
            if ((p->features & features[i].bit) != 0) {
                json_w_cstr(w, features[i].name);
            }
        }
        json_w_end(w);
        if (!brief) {
            json_kv_u64(w, "files", p->files);
            hits_write(w, &p->counts);
        }
    }
    if (p->known && (p->programs_len != 0 || !brief)) {
        json_w_key(w, "programs");
        json_w_arr(w);
        for (size_t i = 0; i < p->programs_len; i++) {
            json_w_obj(w);
            json_kv_cstr(w, "path", p->programs[i].path);
            json_kv_u64(w, "x86_64_level", p->programs[i].isa);
            json_w_end(w);
        }
        json_w_end(w);
    }
    json_w_end(w);
}

static uint64_t number(const struct json *v, const char *key, uint64_t max)
{
    int64_t got;

    return json_int(json_get(v, key), &got) && got >= 0 && (uint64_t)got <= max ? (uint64_t)got : 0;
}

static uint8_t features_of(const struct json *list)
{
    uint8_t bits = 0;
    struct str name;

    JSON_EACH (v, list) {
        for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
            if (json_str(v, &name) && str_eqs(name, features[i].name)) {
                bits |= (uint8_t)features[i].bit;
            }
        }
    }
    return bits;
}

static void programs_of(const struct json *list, struct image_programs *p)
{
    struct str path;

    JSON_EACH (v, list) {
        struct image_program *to = &p->programs[p->programs_len];
        if (p->programs_len == IMAGE_PROGRAMS_MAX) {
            return;
        }
        if (json_str(json_get(v, "path"), &path) &&
            str_copy(to->path, sizeof(to->path), path) == 0) {
            to->isa = (uint8_t)number(v, "x86_64_level", LEVEL_MAX);
            p->programs_len++;
        }
    }
}

int image_programs_parse(const struct json *v, struct image_programs *ret, struct err *e)
{
    struct image_programs p = { .features = IMAGE_FEATURES_ALL };
    const struct json *list = json_get(v, "features");
    const struct json *hits = json_get(v, "hits");
    struct str arch = STR("");

    if (v == NULL || v->type != JSON_OBJECT || !json_bool(json_get(v, "scanned"), &p.known)) {
        return err_say(e, -EINVAL, "an image's facts say nothing of a scan");
    }
    if (p.known) {
        (void)json_str(json_get(v, "arch"), &arch);
        (void)str_copy(p.arch, sizeof(p.arch), arch);
        p.isa = (uint8_t)number(v, "x86_64_level", LEVEL_MAX);
        (void)json_bool(json_get(v, "script"), &p.script);
        (void)json_bool(json_get(v, "entrypoint"), &p.entrypoint);
        p.files = (uint32_t)number(v, "files", UINT32_MAX);
        p.counts = (struct image_elf_counts){
            .aes = (uint32_t)number(hits, "aes", UINT32_MAX),
            .clmul = (uint32_t)number(hits, "clmul", UINT32_MAX),
            .sha = (uint32_t)number(hits, "sha", UINT32_MAX),
            .avx2 = (uint32_t)number(hits, "avx2", UINT32_MAX),
            .avx512 = (uint32_t)number(hits, "avx512", UINT32_MAX),
            .code_bytes = number(hits, "code_bytes", INT64_MAX),
        };
        if (list != NULL && list->type == JSON_ARRAY) {
            p.features = features_of(list);
        }
        list = json_get(v, "programs");
        if (list != NULL && list->type == JSON_ARRAY) {
            programs_of(list, &p);
        }
    }
    *ret = p;
    return 0;
}
